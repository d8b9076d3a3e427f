"""ABC-D and ABC-D2: credit from what the live policy attended to while it spoke."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import ARCHITECTURES, PAD_ID, handed, mask_of, tiny_causal, tiny_classifier
from config.make_snapshots import composed, load
from policies import alone, make_policy, poisoned, rolled, stir
from tokencredit import config as configuration
from tokencredit.errors import UserError
from tokencredit.judges.panel import open_panel
from tokencredit.judges.policy_attention import Average, PolicyAttentionJudge, Shift, one_late
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.adapters.lora import merged
from tokencredit.models.attention.steps import Seen
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.scorer import Scorer
from tokencredit.models.value import ValueKind
from tokencredit.ops import keep
from tokencredit.rewards.redistribute import Redistribute, shares
from tokencredit.rollout import Rollout

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_judge = pytest.mark.parametrize(
    "judge",
    [PolicyAttentionJudge(average=a, shift=s) for a in Average for s in Shift],
    ids=lambda judge: f"{judge.average.value}-{judge.shift.value}",
)


def evidence(judge: PolicyAttentionJudge, policy: PolicyWithValue, rollout: Rollout) -> Tensor:
    return judge.watching(policy)(rollout).evidence


def step_maps(model: Any, rollout: Rollout, row: int) -> Tensor:
    """u_i(j) of one response without padding, from eager maps: (n, n), zero where j ≥ i."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    response = rollout.response_ids[row][rollout.response_mask[row]]
    eager = copy.deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(torch.cat([prompt, response])[None], output_attentions=True)
    rows = out.attentions[-1][0].mean(dim=0)[len(prompt) - 1 : -1, len(prompt) :]
    return rows.tril(-1)


def by_hand(maps: Tensor, judge: PolicyAttentionJudge) -> list[float]:
    """The evidence of papers.md §2.1, in words of Python."""
    n = len(maps)
    if judge.average is Average.last:
        c = [float(maps[n - 1, j]) for j in range(n)]
    else:
        c = [sum(float(maps[i, j]) for i in range(j + 1, n)) / max(1, n - 1 - j) for j in range(n)]
    return c if judge.shift is Shift.aligned else [0.0, *c[:-1]]


U = torch.tensor([[0.4, 0.0, 0.0, 0.0], [0.2, 0.3, 0.0, 0.0], [0.1, 0.1, 0.5, 0.0]])


@pytest.mark.parametrize(
    ("rows", "late", "alpha"),
    [
        ([0, 1, 2], True, [0, 0.25, 0.214286, 0.535714]),
        ([0, 1, 2], False, [0.25, 0.214286, 0.535714, 0]),
        ([2], True, [0, 0.142857, 0.142857, 0.714286]),
        ([2], False, [0.142857, 0.142857, 0.714286, 0]),
    ],
)
def test_papers_A3_numbers_of_the_paper(rows: list[int], late: bool, alpha: list[float]) -> None:
    """u_1 = [.4], u_2 = [.2, .3], u_3 = [.1, .1, .5]."""
    mask = mask_of([4])
    seen = Seen.nothing(mask)
    for row in rows:
        seen.add(U[None, [row]], (torch.arange(4) <= row)[None, None])
    weights = one_late(seen.mean(), mask) if late else seen.mean()
    assert shares(weights, mask)[0].tolist() == pytest.approx(alpha, abs=1e-6)


def test_papers_A3_a_mean_that_counts_steps_before_the_token_would_be_seen() -> None:
    seen, mask = Seen.nothing(mask_of([4])), mask_of([4])
    seen.add(U[None], torch.ones(1, 3, 4, dtype=torch.bool))
    assert shares(seen.mean(), mask)[0].tolist() != pytest.approx(
        [0.25, 0.214286, 0.535714, 0], abs=1e-2
    )


@every_architecture
@every_judge
def test_papers_A3_evidence_is_that_of_the_formula(
    architecture: str, judge: PolicyAttentionJudge
) -> None:
    policy, rollout = make_policy(architecture=architecture), rolled()
    found = evidence(judge, policy, rollout)
    assert found.dtype == torch.float32
    for row, length in enumerate(rollout.lengths.tolist()):
        maps = step_maps(policy.model, rollout, row)
        assert found[row, :length].tolist() == pytest.approx(by_hand(maps, judge), abs=1e-5)
        assert (found[row, length:] == 0).all()
    other = replace(judge, shift=Shift.aligned if judge.shift is Shift.authors else Shift.authors)
    assert (evidence(other, policy, rollout) - found).abs().max() > 1e-2


@every_architecture
@every_judge
def test_papers_A3_one_token_has_all_the_credit(
    architecture: str, judge: PolicyAttentionJudge
) -> None:
    rollout = rolled()
    mask = rollout.response_mask & (torch.arange(rollout.response_mask.shape[1]) < 1)
    single = replace(rollout, response_mask=mask).trimmed()
    judgement = judge.watching(make_policy(architecture=architecture))(single)
    scored = replace(judgement, scores=torch.tensor([2.0, -1.0, 0.5, 3.0]))
    scheme = Redistribute()
    assert scheme.token_rewards(single, scored)[:, 0].tolist() == [2.0, -1.0, 0.5, 3.0]
    assert scheme.measure(single, scored) == {
        "credit/fallback_fraction": 0.0,
        "credit/single_fraction": 1.0,
    }


@every_judge
def test_papers_A6_shares_are_a_distribution(judge: PolicyAttentionJudge) -> None:
    rollout = rolled()
    found = shares(evidence(judge, make_policy(), rollout), rollout.response_mask)
    assert torch.allclose(found.sum(dim=1), torch.ones(len(rollout)), atol=1e-6)
    assert (found >= 0).all()


def widened(rollout: Rollout, left: int, right: int) -> Rollout:
    """More padding on both sides of prompt and response; it holds a valid id."""

    def pad(x: Tensor, before: int, after: int) -> Tensor:
        return torch.nn.functional.pad(
            x, (before, after), value=False if x.dtype is torch.bool else 7
        )

    names = ("response_ids", "response_mask", "logp", "ref_logp", "values")
    return replace(
        rollout,
        prompt_ids=pad(rollout.prompt_ids, left, 0),
        prompt_mask=pad(rollout.prompt_mask, left, 0),
        **{name: pad(getattr(rollout, name), 0, right) for name in names},
    )


@every_architecture
@every_judge
def test_papers_A4_padding_company_and_order_change_nothing(
    architecture: str, judge: PolicyAttentionJudge
) -> None:
    policy, rollout = make_policy(architecture=architecture), rolled()
    whole, width = evidence(judge, policy, rollout), rollout.response_ids.shape[1]
    for left, right in ((5, 0), (0, 5), (3, 4)):
        wide = evidence(judge, policy, widened(rollout, left, right))
        torch.testing.assert_close(wide[:, :width], whole, atol=1e-5, rtol=0)
        assert (wide[:, width:] == 0).all()
    for row, length in enumerate(rollout.lengths.tolist()):
        single = evidence(judge, policy, alone(rollout, row))[0]
        torch.testing.assert_close(single, whole[row, :length], atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = evidence(judge, policy, rollout[order])
    torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=0)
    policy.sampling.score_rows = 1  # each row in a pass of its own
    torch.testing.assert_close(evidence(judge, policy, rollout), whole, atol=1e-5, rtol=0)


@every_judge
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_field_B13_poison_in_masked_slots_changes_no_evidence(
    judge: PolicyAttentionJudge, poison: float
) -> None:
    policy, rollout = make_policy(), widened(rolled(), 2, 3)
    clean = evidence(judge, policy, rollout)
    assert torch.equal(evidence(judge, policy, poisoned(rollout, poison)), clean)


def test_papers_A4_a_prompt_that_is_miscounted_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, rollout, judge = make_policy(), rolled(), PolicyAttentionJudge()
    right = evidence(judge, policy, rollout)
    own = PolicyAttentionJudge._read

    def early(self: Any, policy: Any, reader: Any, part: Rollout) -> Tensor:
        layout = policy.layout(part)
        monkeypatch.setattr(PolicyWithValue, "layout", lambda *_: layout)
        mask = part.prompt_mask.clone()
        mask[:, -1] = False
        return own(self, policy, reader, replace(part, prompt_mask=mask))

    monkeypatch.setattr(PolicyAttentionJudge, "_read", early)
    assert (evidence(judge, policy, rollout) - right).abs().max() > 1e-2


@every_architecture
@pytest.mark.parametrize("kind", [ValueKind.shared, ValueKind.adapter])
def test_the_policys_own_adapter_is_read_wherever_adapters_stand(
    architecture: str, kind: ValueKind
) -> None:
    policy, rollout, judge = (
        make_policy(kind, architecture, lora=True),
        rolled(),
        PolicyAttentionJudge(),
    )
    opened = judge.watching(policy)
    found = opened(rollout).evidence
    trainable = [p.requires_grad for p in policy.parameters()]
    with Reference(policy, None).model():  # adapters are off, as while the reference speaks
        assert torch.equal(opened(rollout).evidence, found)
        with torch.no_grad():
            bare = policy.model.base_model.model
            off = [step_maps(bare, rollout, row) for row in range(len(rollout))]
    assert [p.requires_grad for p in policy.parameters()] == trainable
    plain = merged(copy.deepcopy(policy.model))
    for row, length in enumerate(rollout.lengths.tolist()):
        hand = by_hand(step_maps(plain, rollout, row), judge)
        assert found[row, :length].tolist() == pytest.approx(hand, abs=1e-5)
    without = by_hand(off[0], judge)
    assert found[0, : len(without)].tolist() != pytest.approx(without, abs=1e-3)


@every_architecture
def test_the_policy_of_the_moment_is_read_without_a_trace(architecture: str) -> None:
    policy, rollout = make_policy(architecture=architecture), rolled()
    policy.train()
    judge = PolicyAttentionJudge().watching(policy)
    before = judge(rollout)
    assert not before.evidence.requires_grad and not before.scores.any()
    assert policy.model.training and policy.model.config._attn_implementation == "sdpa"
    assert all(p.grad is None and p.requires_grad for p in policy.parameters())
    assert torch.equal(judge(rollout).evidence, before.evidence)
    policy.checkpoint_activations()
    torch.testing.assert_close(judge(rollout).evidence, before.evidence, atol=1e-6, rtol=0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.1)
    assert (judge(rollout).evidence - before.evidence).abs().max() > 1e-3


def test_bfloat16_is_the_trunks_and_the_weights_are_float32() -> None:
    wide, narrow = make_policy(), make_policy(narrow_format=torch.bfloat16)
    rollout, judge = rolled(), PolicyAttentionJudge()
    found = evidence(judge, narrow, rollout)
    assert found.dtype == torch.float32
    gap = (found - evidence(judge, wide, rollout)).abs().max()
    assert 0 < gap < 0.2


def test_scores_are_the_scorers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, rollout = Scorer(tiny_classifier(), PAD_ID), rolled()
    monkeypatch.setattr("tokencredit.judges.retokenised.open_reader", lambda *_: scorer)
    policy = make_policy()
    actors: Any = type("Actors", (), {"policy": policy, "tokenizer": None})()
    judged = open_panel(PolicyAttentionJudge(), RewardModelJudge(), handed(), actors)(rollout)
    assert torch.equal(judged.scores, scorer.score(rollout))
    assert torch.equal(judged.evidence, evidence(PolicyAttentionJudge(), policy, rollout))


def test_it_cannot_be_its_own_scorer() -> None:
    tree, _ = composed("reward_scheme=abc_d", "scorer=judge")
    with pytest.raises(UserError, match="scorer = 'judge': PolicyAttentionJudge gives no scores"):
        configuration.load(tree)


@pytest.mark.parametrize(("scheme", "average"), [("abc_d", Average.mean), ("abc_d2", Average.last)])
def test_schemes_of_that_name(scheme: str, average: Average) -> None:
    plain, late = (
        load(f"reward_scheme={scheme}", *more) for more in ((), ("judge.shift=authors",))
    )
    assert plain.reward_scheme == Redistribute(beta=0.8)
    assert plain.judge == PolicyAttentionJudge(average=average)
    assert late.judge == PolicyAttentionJudge(average=average, shift=Shift.authors)
    assert isinstance(plain.scorer, RewardModelJudge)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (PolicyAttentionJudge(layer=2), r"judge\.layer = 2: the model has 2 attention layers"),
        (PolicyAttentionJudge(heads=[1, 4]), r"judge\.heads = \[1, 4\]: .* 4 attention heads"),
    ],
)
def test_what_the_policy_lacks_is_refused_when_the_judge_is_opened(
    judge: PolicyAttentionJudge, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        judge.watching(make_policy(lora=True))


@pytest.mark.parametrize("heads", [[-1], [0, 2, 0]])
def test_numbers_that_name_no_heads_are_refused(heads: list[int]) -> None:
    with pytest.raises(UserError, match=r"judge\.heads = .*different numbers from 0 on"):
        PolicyAttentionJudge(heads=heads)


def test_evidence_moves_to_the_next_token_only() -> None:
    mask = mask_of([3, 1], width=4)
    given = keep(torch.tensor([[0.1, 0.2, 0.0, 9.0], [0.0, 9.0, 9.0, 9.0]]), mask)
    assert torch.equal(one_late(given, mask), torch.tensor([[0, 0.1, 0.2, 0], [0, 0, 0, 0.0]]))


def test_a_policy_that_was_not_stirred_differs() -> None:
    """The comparisons above see weights: another policy has another attention."""
    first, second = make_policy(), make_policy()
    second.model.load_state_dict(tiny_causal(seed=5).state_dict())
    stir(second)
    rollout, judge = rolled(), PolicyAttentionJudge()
    gap = evidence(judge, first, rollout) - evidence(judge, second, rollout)
    assert gap.abs().max() > 1e-2

"""The hindsight model: outcomes of scores, what h and π say, on tables by hand and by brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from builders import EOS_ID, PAD_ID, make_rollout, tiny_causal
from tokencredit.errors import UserError
from tokencredit.judges import hindsight
from tokencredit.judges.hindsight import HindsightJudge, Reading
from tokencredit.models.adapters.lora import Lora, LoraLayers, adapted
from tokencredit.models.hindsight import Hindsight, HindsightModel, Outcomes, compared
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.ops import masked_mean
from tokencredit.rewards.advantage_schemes import Hindsight as Credit
from tokencredit.rollout import Judgement, Rollout
from tokencredit.statistics.judge_numbers import Told, hindsight_numbers

PREFIXES = ((7, 8), (9,), (10, 11, 12))
SPECIAL = SpecialIds(eos=EOS_ID, pad=PAD_ID, others=(5,), spare=(298, 299))


def said_of(h: Tensor, policy: Tensor, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """What is said of some choices, (N, V) tables of probabilities as the two models' states."""
    head = nn.Linear(h.shape[1], h.shape[1], bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(h.shape[1]))
    states = h.clamp(min=1e-30).log(), policy.log()
    return compared(states, (head, head), Choices(ids=torch.tensor(ids)), 1 << 20)


def test_the_two_actions_by_hand() -> None:
    """π = ½, p(good | a) = .8, p(good | b) = .3: h(· | good) = .727273, .272727, and A = ± ¼."""
    chance = torch.tensor([0.8, 0.3])
    h = torch.stack([0.5 * chance / 0.55, 0.5 * (1 - chance) / 0.45]).repeat_interleave(2, 0)
    assert h[0].tolist() == pytest.approx([0.727273, 0.272727], abs=1e-6)
    log_h, log_pi, lost = said_of(h, torch.full((4, 2), 0.5), [0, 1, 0, 1])
    assert lost.tolist() == [0, 0, 0, 0]
    rollout = make_rollout([1] * 4)
    judgement = Judgement(
        scores=torch.tensor([1.0, 1.0, 0.0, 0.0]), evidence=(log_h - log_pi)[:, None]
    )
    zeros = torch.zeros(4, 1)
    paid = Credit().token_advantages(rollout, judgement, zeros, zeros, None)[:, 0]
    assert float(0.8 * paid[0] + 0.2 * paid[2]) == pytest.approx(0.25, abs=1e-6)
    assert float(0.3 * paid[1] + 0.7 * paid[3]) == pytest.approx(-0.25, abs=1e-6)


def test_an_outcome_that_is_certain_loses_credit_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R(a) = 1, R(b) = 0, π = ½: h(b | 1) = 0, and A(b) = 0 where it is −½. Half of π is lost."""
    told: list[str] = []
    monkeypatch.setattr(hindsight, "say_once", told.append)
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    log_h, log_pi, lost = said_of(certain, torch.full((2, 2), 0.5), [0, 1])
    assert lost.tolist() == [0.5, 0.5]
    rollout = make_rollout([1, 1])
    evidence = (log_h - log_pi)[:, None]
    zeros = torch.zeros(2, 1)
    judgement = Judgement(scores=torch.tensor([1.0, 0.0]), evidence=evidence)
    assert Credit().token_advantages(rollout, judgement, zeros, zeros, None).tolist() == [
        [0.5],
        [0.0],
    ]

    class Table:
        outcomes = Outcomes((0.0,), ((7,), (8,)))

        def __init__(self, lost: Tensor) -> None:
            self.lost = lost

        def __call__(self, rollout: Rollout, outcomes: Tensor) -> Hindsight:
            assert outcomes.tolist() == [1, 0]
            return Hindsight(log_h[:, None], log_pi[:, None], self.lost[:, None])

        def score(self, rollout: Rollout) -> Tensor:
            return torch.tensor([1.0, 0.0])

    table = Table(lost)
    found = Reading(table, table)(rollout)  # type: ignore[arg-type]
    assert found.notes is not None and found.notes.means() == {"outcome": 0.5, "lost_mass": 0.5}
    assert len(told) == 1 and "makes impossible" in told[0]
    table = Table(torch.full((2,), 0.09))
    Reading(table, table)(rollout)  # type: ignore[arg-type]
    assert len(told) == 1


def information(policy: Tensor, chance: Tensor) -> float:
    """I(A; f) of a table: actions with probabilities `policy`, (V,), and p(f | a), (V, F); each
    joint event counts by its probability in hundredths."""
    joint = policy[:, None] * chance
    h = (joint / joint.sum(dim=0)).t()  # (F, V)
    events = [(a, f) for a in range(len(policy)) for f in range(chance.shape[1])]
    events = [e for e in events for _ in range(round(float(joint[e]) * 100))]
    told = []
    for place, (a, f) in enumerate(events):
        log_h, log_pi, _ = said_of(h, policy.expand(len(h), -1), [a] * len(h))
        told.append(Told(place, 1, f, log_h.tolist(), float(log_pi[0]), 0.0))
    found = hindsight_numbers(told)
    assert found.responses == 100
    assert found.information == pytest.approx(found.loss_untold - found.loss_told)
    return found.information


def test_independent_outcomes_say_nothing_and_an_action_itself_says_all() -> None:
    policy = torch.tensor([0.5, 0.2, 0.3])
    entropy = -float((policy * policy.log()).sum())
    assert information(policy, torch.tensor([[0.7, 0.3]] * 2 + [[0.7, 0.3]])) == pytest.approx(
        0, abs=1e-6
    )
    assert information(policy, torch.eye(3)) == pytest.approx(entropy, abs=1e-6)
    assert information(policy, torch.eye(3)[[0, 1, 1]]) == pytest.approx(math.log(2), abs=1e-6)


def test_the_numbers_by_hand() -> None:
    """Two responses to one prompt and one to another, of 2, 2, and 4 tokens."""
    found = hindsight_numbers(
        [
            Told(0, 2, 0, [-2.0, -3.0], -2.5, 0.5),
            Told(0, 2, 1, [-2.0, -4.0], -4.5, 0.0),
            Told(1, 4, 1, [-9.0, -5.0], -5.0, 0.3),
        ]
    )
    assert (found.responses, found.loss_told, found.loss_untold) == (3, 11 / 8, 12 / 8)
    assert found.information == pytest.approx(1 / 8) and found.lost_mass == pytest.approx(0.1)
    # Residuals ±½ around the ratio, over 2 prompts: √(½ · 2 / 1) / 8.
    half = 12.7062 * math.sqrt(0.5 * 2) / 8
    assert found.information_high - found.information == pytest.approx(half, rel=1e-4)
    assert found.outcome_accuracy == pytest.approx(2 / 3)
    assert found.outcome_baseline == pytest.approx(2 / 3)


def test_outcomes_are_bins_of_equally_many_scores() -> None:
    scores = [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]
    found = Outcomes.of(scores, PREFIXES)
    assert found.edges == (2.0, 4.0) and found.longest == 3
    assert found(torch.tensor(scores)).tolist() == [1, 0, 0, 2, 2, 1]
    assert found(torch.tensor([-9.0, 2.0001, 99.0])).tolist() == [0, 1, 2]
    tenths = [0.1, 0.2, 0.3]  # no float32: edges that were rounded would move a score
    assert Outcomes.of(tenths, PREFIXES)(torch.tensor(tenths)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([1.0, 2.0], r"judge\.outcomes = 3: there are only 2 responses.*dpo\.prompts"),
        ([1.0] * 9, r"judge\.outcomes = 3: the 9 scores have no so many quantiles.*1, 1, 1"),
        ([1.0, 1.0, 1.0, 1.0, 2.0, 3.0], r"judge\.outcomes = 3.*1, 1, 3.*lower it"),
        ([0.0, 1.0, 1.0, 1.0], r"judge\.outcomes = 3"),
    ],
)
def test_scores_that_are_too_few_or_too_equal_are_refused(scores: list[float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Outcomes.of(scores, PREFIXES)


def test_what_is_told_stands_before_the_prompt_and_changes_no_id_of_it() -> None:
    rollout = make_rollout([2, 3, 1])
    told = Outcomes((0.0, 1.0), PREFIXES).told(rollout, torch.tensor([2, 0, 1]), PAD_ID)
    for row, prefix in enumerate([PREFIXES[2], PREFIXES[0], PREFIXES[1]]):
        before = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        assert told.prompt_ids[row][told.prompt_mask[row]].tolist() == [*prefix, *before]
    assert told.response_ids is rollout.response_ids
    assert bool(told.prompt_mask[:, -1].all())  # padded left


def model(seed: int = 0) -> HindsightModel:
    """A tiny model whose adapters do something."""
    lora = Lora(enabled=True, r=2, alpha=4, layers=LoraLayers.all)
    found = adapted(tiny_causal("llama", seed), lora).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    outcomes = Outcomes((0.0, 1.0), PREFIXES)
    return HindsightModel(found, SPECIAL, outcomes, Computation(uses_values=False))


def by_brute_force(
    one: HindsightModel, rollout: Rollout, outcomes: list[int], row: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One response in plain passes over the whole vocabulary."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    said = rollout.response_ids[row][rollout.response_mask[row]]
    both = []
    with torch.no_grad():
        for prefix in (PREFIXES[outcomes[row]], ()):
            ids = torch.cat([torch.tensor(prefix, dtype=torch.long), prompt, said])[None]
            if prefix:
                logits = one.model(ids).logits
            else:
                with one.model.disable_adapter():
                    logits = one.model(ids).logits
            logits = logits[0, -len(said) - 1 : -1].float()
            logits[:, [PAD_ID, 298, 299]] = -torch.inf
            early = torch.arange(len(said)) < rollout.min_new[row]
            logits[:, [EOS_ID, 5]] = torch.where(early[:, None], -torch.inf, logits[:, [EOS_ID, 5]])
            both.append(logits.log_softmax(dim=1))
    h, policy = both
    lost = torch.where(h.exp() < 0.01 * policy.exp(), policy.exp(), 0.0).sum(dim=1)
    return h.gather(1, said[:, None])[:, 0], policy.gather(1, said[:, None])[:, 0], lost


def test_both_models_say_what_plain_passes_say() -> None:
    rollout = make_rollout([4, 1, 6, 3], seed=2)
    mask = rollout.response_mask
    ids = rollout.response_ids.masked_fill(mask & (rollout.response_ids >= 298), 6)
    ids = ids.masked_fill(mask & (ids <= 5), 6)
    rollout = replace(rollout, response_ids=ids, min_new=torch.tensor([2, 0, 6, 1]))
    one, outcomes = model(), [2, 0, 1, 0]
    found = one(rollout, torch.tensor(outcomes))
    assert float(masked_mean(found.lost, mask)) > 0.01  # or nothing is compared
    for row in range(4):
        width = int(rollout.lengths[row])
        parts = (found.log_h, found.log_pi, found.lost)
        for got, wanted in zip(parts, by_brute_force(one, rollout, outcomes, row), strict=True):
            assert torch.allclose(got[row, :width], wanted, atol=1e-4)
            assert bool((got[row, width:] == 0).all())
    assert torch.equal(found.evidence, found.log_h - found.log_pi)
    other = one(rollout, torch.tensor([0, 0, 1, 0]))
    assert not torch.allclose(other.log_h[0], found.log_h[0])
    assert torch.allclose(other.log_pi, found.log_pi, atol=1e-5)


def test_padding_order_and_poison_change_nothing() -> None:
    rollout, outcomes, one = make_rollout([4, 1, 6], seed=3), torch.tensor([2, 0, 1]), model(1)
    found = one(rollout, outcomes).evidence
    order = torch.tensor([2, 0, 1])
    turned = one(rollout[order], outcomes[order]).evidence
    assert torch.allclose(turned, found[order], atol=1e-5)
    wide = make_rollout([4, 1, 6], width=9, seed=3)
    mask, before = wide.response_mask, rollout.prompt_mask
    filled = torch.nn.functional.pad(rollout.response_ids, (0, wide.response_ids.shape[1] - 6))
    poisoned = replace(
        wide,
        prompt_ids=torch.where(before, rollout.prompt_ids, 17),
        prompt_mask=before,
        response_ids=torch.where(mask, filled, 23),
        logp=torch.full_like(wide.logp, torch.nan),
    )
    again = one(poisoned, outcomes).evidence
    assert torch.allclose(again[:, :6], found, atol=1e-5) and bool((again[~mask] == 0).all())
    alone = one(rollout[torch.tensor([1])], outcomes[1:2]).evidence
    assert torch.allclose(alone[0, :1], found[1, :1], atol=1e-5)


def test_what_does_not_fit_into_the_model_is_refused() -> None:
    one = model()
    longest = one.model.config.max_position_embeddings
    one.check_room(longest - 3)
    with pytest.raises(
        UserError, match=rf"judge\.phrase = '?3 tokens.*{longest - 2} tokens.*the {longest} that"
    ):
        one.check_room(longest - 2)
    with pytest.raises(UserError, match=r"judge\.phrase = ' ': is empty"):
        HindsightJudge(phrase=" ")
    with pytest.raises(UserError, match=r"judge\.outcomes = 1"):
        HindsightJudge(outcomes=1)

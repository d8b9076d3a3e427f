"""The implicit judge: its log-ratios, its adapters, its own reference, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from builders import (
    ARCHITECTURES,
    EOS_ID,
    handed,
    make_prompts,
    make_rollout,
    tiny_actors,
    tiny_causal,
    train_tokenizer,
)
from policies import LORA, alone, make_policy, poisoned, rolled, run_config
from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.fit import check_fit
from tokencredit.judges.implicit import Denominator, ImplicitJudge
from tokencredit.judges.panel import open_panel, shares_pass
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models import log_ratio as log_ratios
from tokencredit.models.adapters.lora import DPO, adapted, merged
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.loading.model import Dtype
from tokencredit.models.log_ratio import LogRatio, as_it_is, open_log_ratio
from tokencredit.models.passes.computation import Computation
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.value import ValueKind
from tokencredit.ops import gather_logp, masked_sum
from tokencredit.rewards.implicit import RTO, SemiRTO
from tokencredit.rollout import Rollout

KINDS = (ValueKind.shared, ValueKind.adapter)


def folder_of(model: Any, place: Path) -> Path:
    model.save_pretrained(place)
    train_tokenizer().save_pretrained(place)
    return place


def dpo_adapter(architecture: str = "llama") -> Any:
    """The base model of the tests under an adapter that is unlike the policy's."""
    model = adapted(tiny_causal(architecture), LORA)
    generator = torch.Generator().manual_seed(55)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def by_hand(model: Any, rollout: Rollout) -> Tensor:
    """log π of every response token from the model's own logits, row by row without padding."""
    found = torch.zeros(rollout.response_mask.shape)
    for row in range(len(rollout)):
        single = alone(rollout, row)
        ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, single.prompt_ids.shape[1] - 1 : -1]
        logp, _ = gather_logp(logits, single.response_ids)
        found[row, : logp.shape[1]] = logp[0]
    return found


@pytest.fixture(params=ARCHITECTURES)
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """An architecture, a folder with an adapter of DPO's, and one with what it started from."""
    name = request.param
    return (
        name,
        folder_of(dpo_adapter(name), tmp_path / "dpo"),
        folder_of(tiny_causal(name), tmp_path / "sft"),
    )


def opened(policy: PolicyWithValue, dpo: Path, sft: Path) -> LogRatio:
    return open_log_ratio(policy, dpo, sft, Dtype.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_three_adapters_of_one_base_say_what_three_models_say(
    folders: tuple[str, Path, Path], kind: ValueKind
) -> None:
    name, dpo, sft = folders
    policy, rollout = make_policy(kind, name, lora=True), rolled(name)
    with torch.no_grad():
        before = policy(rollout)
    ratio = opened(policy, dpo, sft)
    single = {"dpo": merged(dpo_adapter(name)).eval(), "reference": tiny_causal(name).eval()}
    expected = {role: by_hand(model, rollout) for role, model in single.items()}
    assert torch.allclose(ratio.logp(ratio.dpo, rollout), expected["dpo"], atol=1e-4)
    assert torch.allclose(ratio.logp(ratio.reference, rollout), expected["reference"], atol=1e-4)
    found = ratio(rollout)
    assert torch.allclose(found, expected["dpo"] - expected["reference"], atol=1e-4)
    assert found.abs().max() > 0.1
    with torch.no_grad():
        after = policy(rollout)
    assert torch.equal(after.logp, before.logp) and torch.equal(after.values, before.values)


def test_memory_holds_one_base(folders: tuple[str, Path, Path]) -> None:
    name, dpo, sft = folders
    policy = make_policy(architecture=name, lora=True)
    before = {key: p.data_ptr() for key, p in policy.named_parameters()}
    ratio = opened(policy, dpo, sft)
    after = {key: p.data_ptr() for key, p in policy.named_parameters()}
    assert {key: after[key] for key in before} == before
    new = [key for key in after if key not in before]
    assert new and all(f".{DPO}." in key for key in new)
    with ratio.dpo() as first:
        pass
    with ratio.reference() as second:
        pass
    assert first is second is policy.model


def state(policy: PolicyWithValue) -> dict[str, Any]:
    return {
        "grad": {k: p.requires_grad for k, p in policy.named_parameters() if f".{DPO}." not in k},
        "training": {k: m.training for k, m in policy.named_modules() if DPO not in k},
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_switching_leaves_the_policy_as_it_was(
    folders: tuple[str, Path, Path], kind: ValueKind, training: bool
) -> None:
    name, dpo, sft = folders
    policy, rollout = make_policy(kind, name, lora=True).train(training), rolled(name)
    before, groups = state(policy), policy.parameter_groups()
    ratio = opened(policy, dpo, sft)
    assert state(policy) == before
    ratio(rollout)
    assert state(policy) == before
    again = policy.parameter_groups()
    assert all(
        [id(p) for p in group] == [id(p) for p in again[key]] for key, group in groups.items()
    )
    frozen = [p for key, p in policy.named_parameters() if f".{DPO}." in key]
    assert frozen and not any(p.requires_grad for p in frozen)


def gradients(policy: PolicyWithValue, rollout: Rollout, ratio: LogRatio | None) -> list[Tensor]:
    """Of a loss whose graph was there before the judge was asked, and once more after it."""
    policy.zero_grad()
    for _ in range(2):
        output = policy(rollout)
        if ratio is not None:
            ratio(rollout)
        (output.logp.sum() + output.values.square().sum()).backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def test_gradients_are_those_without_a_judge(folders: tuple[str, Path, Path]) -> None:
    name, dpo, sft = folders
    policy, rollout = make_policy(architecture=name, lora=True).train(), rolled(name)
    plain = gradients(policy, rollout, None)
    judged = gradients(policy, rollout, opened(policy, dpo, sft))
    assert len(plain) == len(judged) > 4
    assert all(torch.equal(a, b) for a, b in zip(plain, judged, strict=True))


def two_models(architecture: str = "llama", **computation: Any) -> LogRatio:
    models = tiny_causal(architecture, seed=5), tiny_causal(architecture, seed=6)
    dpo, reference = (as_it_is(model) for model in models)
    return LogRatio(dpo, reference, Computation(**computation), EOS_ID)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_models_say_what_their_logits_say(architecture: str, tmp_path: Path) -> None:
    models = [tiny_causal(architecture, seed=seed) for seed in (5, 6)]
    places = [folder_of(model, tmp_path / name) for name, model in zip("ab", models, strict=True)]
    rollout = rolled(architecture)
    ratio = opened(make_policy(architecture=architecture), *places)
    dpo, reference = (by_hand(model.eval(), rollout) for model in models)
    assert torch.allclose(ratio(rollout), dpo - reference, atol=1e-4)


def test_the_distribution_is_the_whole_softmax_whatever_was_sampled_from() -> None:
    """Temperature, top-k, and the masked end token of sampling play no part."""
    sampling = Sampling(temperature=0.7, top_k=9)
    plain, odd = rolled(), rolled(sampling=sampling)
    ratio = two_models()
    for rollout in (plain, odd):
        models = tiny_causal(seed=5).eval(), tiny_causal(seed=6).eval()
        dpo, reference = (by_hand(model, rollout) for model in models)
        assert torch.allclose(ratio(rollout), dpo - reference, atol=1e-4)


@pytest.mark.parametrize("fill", [float("nan"), 1e9])
def test_padding_order_and_company_change_nothing(fill: float) -> None:
    ratio, rollout = two_models(), rolled()
    found = ratio(rollout)
    assert torch.equal(ratio(poisoned(rollout, fill)), found)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(ratio(rollout[order]), found[order], atol=1e-5)
    for row in range(len(rollout)):
        single = alone(rollout, row)
        length = int(single.lengths[0])
        assert torch.allclose(ratio(single)[0], found[row, :length], atol=1e-5)
    assert (found[~rollout.response_mask] == 0).all()


def test_no_logits_of_a_batch_outlive_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rollout, sizes = make_rollout([12] * 100), []
    real = log_ratios.token_logp

    def counted(states: Tensor, *rest: Any) -> Any:
        sizes.append(len(states))
        return real(states, *rest)

    monkeypatch.setattr(log_ratios, "token_logp", counted)
    monkeypatch.setattr("tokencredit.models.passes.sequences.PART_TOKENS", 70)
    small = two_models(logits_memory=1 << 12)(rollout)
    assert max(sizes) <= 70 and sum(sizes) == 2 * 1200
    monkeypatch.setattr("tokencredit.models.passes.sequences.PART_TOKENS", 10**6)
    assert torch.allclose(small, two_models()(rollout), atol=1e-5)


def test_scores_are_beta_times_the_sum_and_are_logged() -> None:
    ratio, rollout = two_models(), rolled()
    judge = ImplicitJudge().judging(ratio, 0.3, train_tokenizer())
    judgement = judge(rollout)
    sums = masked_sum(judgement.evidence, rollout.response_mask)
    assert torch.allclose(judgement.scores, 0.3 * sums)
    assert judgement.notes is not None and judgement.ends is None
    assert judgement.notes.means()["implicit_reward"] == pytest.approx(float(0.3 * sums.mean()))
    assert not judgement.evidence.requires_grad


def test_R1_its_reference_is_its_own_unless_told_otherwise() -> None:
    """The reference of the KL penalty plays no part: the released code loads one and uses the other."""
    ratio, rollout = two_models(), rolled()
    moved = replace(rollout, ref_logp=rollout.ref_logp - 5 * rollout.response_mask)
    tokenizer = train_tokenizer()
    own = ImplicitJudge().judging(ratio, 0.1, tokenizer)
    assert torch.equal(own(moved).evidence, own(rollout).evidence)
    theirs = ImplicitJudge(reference=Denominator.kl).judging(ratio, 0.1, tokenizer)
    change = theirs(moved).evidence - theirs(rollout).evidence
    assert torch.allclose(change, 5.0 * rollout.response_mask, atol=1e-4)
    wide = poisoned(moved, float("nan"))
    assert torch.equal(theirs(wide).evidence, theirs(moved).evidence)


def test_authors_reference_is_the_same_model_where_sampling_masks_nothing() -> None:
    sampling = Sampling(min_new_tokens=1, eos_masked_before=0, logprob_mask=LogprobMask.full)
    policy, rollout = make_policy(sampling=sampling), rolled(sampling=sampling)
    reference = Reference(policy, copy.deepcopy(tiny_causal(seed=6)))
    said = replace(rollout, ref_logp=reference.logp(rollout))
    ratio = two_models()
    assert torch.allclose(ratio.against(said), ratio(said), atol=1e-4)


def test_another_vocabulary_or_architecture_is_refused(tmp_path: Path) -> None:
    sft = folder_of(tiny_causal(), tmp_path / "sft")
    other = folder_of(tiny_causal("gpt2"), tmp_path / "other")
    with pytest.raises(UserError, match=r"model\.dpo: the DPO model is of another architecture"):
        opened(make_policy(), other, sft)
    wider = folder_of(tiny_causal(vocab_size=310), tmp_path / "wider")
    with pytest.raises(
        UserError, match=r"embed_tokens.weight is \(310, 32\) there and \(300, 32\)"
    ):
        opened(make_policy(), wider, sft)
    words = folder_of(tiny_causal(), tmp_path / "words")
    tokenizer = train_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(words)
    with pytest.raises(UserError, match="vocabulary differs from its reference's"):
        opened(make_policy(), words, sft)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"judge\.sentence_end = '\('.*regular expression"):
        ImplicitJudge(sentence_end="(")


def test_only_the_judge_says_where_sentences_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer's scores alone are taken, whatever else it knows."""
    ratio, tokenizer, rollout = two_models(), train_tokenizer(), rolled()
    judge, scorer = ImplicitJudge(), ImplicitJudge(sentence_end="e")
    monkeypatch.setattr(ImplicitJudge, "open", lambda self, *_: self.judging(ratio, 0.2, tokenizer))
    context, actors = handed(), cast(Any, None)
    found = open_panel(judge, scorer, context, actors)(rollout)
    assert found.ends is None and torch.equal(
        found.scores, judge.open(context, actors)(rollout).scores
    )
    assert scorer.open(context, actors)(rollout).ends is not None
    swapped = open_panel(scorer, judge, context, actors)(rollout)
    assert swapped.ends is not None
    assert judge.gives_ends() is False and scorer.gives_ends() is True


def test_a_scheme_that_pays_at_ends_wants_a_judge_that_knows_them() -> None:
    check_fit(SemiRTO(), ImplicitJudge(sentence_end="e"), COMPONENTS["judge"])
    check_fit(RTO(), ImplicitJudge(), COMPONENTS["judge"])
    with pytest.raises(UserError, match="does not say where sentences end, but SemiRTO pays there"):
        check_fit(SemiRTO(), ImplicitJudge(), COMPONENTS["judge"])
    with pytest.raises(UserError, match="gives nonnegative evidence, but RTO needs signed"):
        check_fit(RTO(), AttentionJudge(), COMPONENTS["judge"])


def test_a_judge_that_reads_the_reference_is_shown_scored_responses() -> None:
    """What another model than the policy says has no log-probabilities unless it is scored."""
    assert ImplicitJudge(reference=Denominator.kl).reads_reference()
    assert not ImplicitJudge().reads_reference()
    kl = ImplicitJudge(reference=Denominator.kl)
    config = replace(run_config(), reward_scheme=RTO(), judge=kl)
    assert config.reads_reference() and not run_config().reads_reference()
    actors, prompts = tiny_actors(), make_prompts([2, 4, 3])
    model = actors.reference.frozen
    assert model is not None
    bare = actors.respond(model, prompts, ("said",))
    scored = replace(actors, score_all=True).answer(model, prompts, ("said",))
    assert torch.equal(bare.response_ids, scored.response_ids)
    assert not bare.ref_logp.any() and torch.equal(scored.ref_logp, actors.reference.logp(bare))


def test_one_pair_of_models_serves_judge_and_scorer() -> None:
    assert shares_pass(ImplicitJudge(), ImplicitJudge())
    assert not shares_pass(ImplicitJudge(), ImplicitJudge(reference=Denominator.kl))
    assert not shares_pass(ImplicitJudge(), RewardModelJudge())

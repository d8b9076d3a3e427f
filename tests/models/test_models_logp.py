"""Log-probabilities and values: by hand, alone or in company, under the sampling distribution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tokencredit.algorithms.losses as losses_module
import tokencredit.models.passes.packing as layout_module
from builders import (
    ARCHITECTURES,
    EOS_ID,
    PAD_ID,
    VOCABULARY,
    make_prompts,
    tiny_actors,
    tiny_causal,
    tiny_policy,
)
from policies import LENGTHS, alone, make_policy, poisoned, rolled
from tokencredit.algorithms.ppo import PPO
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.policy import PolicyWithValue
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.models.value import ValueKind
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def padded(rollout: Rollout, left: int, right: int, fill: int) -> Rollout:
    """More padding on both sides, with `fill` in it."""

    def pad(x: Tensor, before: int, after: int, value: float) -> Tensor:
        return torch.nn.functional.pad(x, (before, after), value=value)

    floats = {
        name: pad(getattr(rollout, name), 0, right, 0.0) for name in ("logp", "ref_logp", "values")
    }
    mask = pad(rollout.response_mask, 0, right, False)
    prompt_mask = pad(rollout.prompt_mask, left, 0, False)
    return replace(
        rollout,
        prompt_ids=torch.where(prompt_mask, pad(rollout.prompt_ids, left, 0, fill), fill),
        prompt_mask=prompt_mask,
        response_ids=torch.where(mask, pad(rollout.response_ids, 0, right, fill), fill),
        response_mask=mask,
        **floats,
    )


def gap(a: PolicyOutput, b: PolicyOutput, mask: Tensor) -> float:
    """The greatest difference where tokens count."""
    names = ("logp", "values", "entropy")
    return max((getattr(a, n)[mask] - getattr(b, n)[mask]).abs().max().item() for n in names)


@architectures
@pytest.mark.parametrize(("left", "right"), [(0, 0), (5, 0), (0, 6), (4, 3)])
@pytest.mark.parametrize("fill", [PAD_ID, EOS_ID, 77])
@torch.no_grad()
def test_field_B10_left_and_right_padding(
    architecture: str, left: int, right: int, fill: int
) -> None:
    policy, rollout = tiny_policy(architecture), rolled(architecture)
    together = policy(padded(rollout, left, right, fill))
    for row in range(len(rollout)):
        single = alone(rollout, row)
        length = int(single.lengths)
        part = PolicyOutput(
            **{
                n: getattr(together, n)[row : row + 1, :length]
                for n in ("logp", "values", "entropy")
            }
        )
        assert gap(policy(single), part, single.response_mask) < 1e-5


@architectures
@torch.no_grad()
def test_field_B10_gaps_that_are_left_in_would_be_seen(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rollout = tiny_policy(architecture), rolled(architecture)
    before = policy(rollout)
    moved = padded(rollout, 4, 0, PAD_ID)
    assert gap(before, policy(moved), rollout.response_mask) < 1e-5

    def naive(rollout: Rollout, filler: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
        start = torch.full((len(ids),), rollout.prompt_ids.shape[1])
        return ids, torch.ones_like(ids, dtype=torch.bool), start, start

    monkeypatch.setattr(layout_module, "compact", naive)
    assert gap(before, policy(moved), rollout.response_mask) > 1e-3


@architectures
@torch.no_grad()
def test_field_B10_positions_that_start_elsewhere_would_be_seen(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more id in front of every row moves every position by one."""
    policy, rollout = tiny_policy(architecture), rolled(architecture)
    before = policy(rollout)
    compact = layout_module.compact

    def shifted(rollout: Rollout, filler: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ids, mask, start, last = compact(rollout, filler)
        front = torch.full((len(ids), 1), filler)
        return torch.cat([front, ids], dim=1), mask, start + 1, last

    monkeypatch.setattr(layout_module, "compact", shifted)
    assert gap(before, policy(rollout), rollout.response_mask) > 1e-3


@torch.no_grad()
def test_states_are_read_one_place_before_the_token() -> None:
    policy, rollout = tiny_policy(), rolled("llama")
    layout = policy.layout(rollout)
    assert layout.ids.shape[1] == int((rollout.prompt_mask.sum(1) + rollout.lengths).max()) - 1
    before = layout.ids.flatten()[layout.sources]
    said = torch.cat([rollout.prompt_ids[:, -1:], rollout.response_ids[:, :-1]], dim=1)
    assert torch.equal(before, said[rollout.response_mask])
    whole = torch.arange(len(layout.sources), dtype=torch.float32)
    assert torch.equal(layout.spread(whole)[rollout.response_mask], whole)
    assert (layout.spread(whole + 1)[~rollout.response_mask] == 0).all()


@architectures
@torch.no_grad()
def test_field_B10_without_the_attention_mask_it_differs(architecture: str) -> None:
    policy, rollout = tiny_policy(architecture), rolled(architecture)
    blind = replace(rollout, prompt_mask=torch.ones_like(rollout.prompt_mask))
    assert gap(policy(rollout), policy(blind), rollout.response_mask) > 1e-3


@torch.no_grad()
def by_hand(policy: PolicyWithValue, rollout: Rollout, row: int, temperature: float) -> Tensor:
    """Log-probabilities of one row from the model's own logits, the end token masked where it was."""
    single = alone(rollout, row)
    ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
    start = single.prompt_ids.shape[1]
    logits = policy.model(input_ids=ids).logits[0, start - 1 : -1].double() / temperature
    logits[: int(single.min_new), EOS_ID] = -torch.inf
    logits[:, PAD_ID] = -torch.inf
    return logits.log_softmax(-1).gather(-1, single.response_ids[0, :, None]).squeeze(-1)


@architectures
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_field_B41_logp_is_that_of_the_sampling_distribution(
    architecture: str, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature)
    policy, rollout = tiny_policy(architecture, sampling), rolled(architecture, sampling)
    for row, length in enumerate(rollout.lengths.tolist()):
        expected = by_hand(policy, rollout, row, temperature)
        assert torch.allclose(rollout.logp[row, :length].double(), expected, atol=1e-4)
        other = by_hand(policy, rollout, row, 1.7 - temperature)
        assert (rollout.logp[row, :length].double() - other).abs().max() > 1e-3


@torch.no_grad()
def test_full_mask_is_the_models_own_distribution() -> None:
    sampling = Sampling(temperature=0.7, logprob_mask=LogprobMask.full)
    policy, rollout = tiny_policy("llama", sampling), rolled("llama", sampling)
    single = alone(rollout, 1)
    ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
    logits = policy.model(input_ids=ids).logits[0, single.prompt_ids.shape[1] - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, single.response_ids[0, :, None]).squeeze(-1)
    assert torch.allclose(policy(single).logp[0], expected, atol=1e-5)
    assert not policy.eos_banned(rollout).any()


def test_end_token_is_banned_before_its_time_and_only_then() -> None:
    rollout = rolled("llama")
    banned = tiny_policy().eos_banned(replace(rollout, min_new=torch.tensor([0, 1, 3, 99])))
    assert banned.sum(dim=1).tolist() == [0, 1, 3, rollout.response_ids.shape[1]]
    assert banned[2].nonzero().flatten().tolist() == [0, 1, 2]


@torch.no_grad()
def test_probabilities_of_all_tokens_sum_to_1() -> None:
    policy, rollout = tiny_policy(), rolled("llama")
    single = alone(rollout, 0)
    first = replace(
        single[torch.zeros(VOCABULARY, dtype=torch.long)],
        response_ids=torch.arange(VOCABULARY)[:, None],
        **dict.fromkeys(("logp", "ref_logp", "values"), torch.zeros(VOCABULARY, 1)),
        response_mask=torch.ones(VOCABULARY, 1, dtype=torch.bool),
    )
    possible = torch.ones(VOCABULARY, dtype=torch.bool)
    possible[[EOS_ID, PAD_ID]] = False
    logp = policy(first).logp[:, 0]
    assert logp[possible].exp().sum().item() == pytest.approx(1, abs=1e-5)


@architectures
@torch.no_grad()
def test_value_is_read_before_the_action(architecture: str) -> None:
    """V_t must not see token t: changing the last token changes no value."""
    policy, rollout = tiny_policy(architecture), rolled(architecture)
    single = alone(rollout, 2)
    changed = single.response_ids.clone()
    changed[0, -1] = (changed[0, -1] + 5) % VOCABULARY
    assert torch.equal(policy(single).values, policy(replace(single, response_ids=changed)).values)
    changed[0, 0] = (changed[0, 0] + 5) % VOCABULARY
    after = policy(replace(single, response_ids=changed)).values
    assert after[0, 0] == policy(single).values[0, 0]
    assert (after - policy(single).values)[0, 1:].abs().max() > 1e-3


@architectures
def test_papers_S4_recomputed_logp_equals_the_stored_one(architecture: str) -> None:
    actors = tiny_actors(architecture)
    rollout = actors.roll_out(make_prompts(LENGTHS), ("test", 0))
    actors.policy.train()
    output = actors.policy(rollout)
    mask = rollout.response_mask
    assert (output.logp - rollout.logp)[mask].abs().max().item() < 1e-6
    assert torch.allclose(output.values[mask], rollout.values[mask], atol=1e-6)
    late = keep(rollout.logp.roll(1, dims=1), mask)
    assert (output.logp - late)[mask].abs().max() > 0.1


def test_papers_S4_clipped_loss_has_the_policy_gradient() -> None:
    actors = tiny_actors()
    rollout = actors.roll_out(make_prompts(LENGTHS), ("test", 0))
    mask = rollout.response_mask
    algorithm = PPO(value_coef=0.0)
    state = algorithm.initial_state()
    rewards = keep(torch.cos(rollout.response_ids.float()), mask)
    targets = algorithm.targets(rollout, algorithm.shape(rewards, rollout, state))
    parameters = list(actors.policy.model.parameters())
    loss = algorithm.loss(actors.policy(rollout), rollout, targets, state).total / mask.sum()
    found = torch.autograd.grad(loss, parameters)
    plain = -(keep(targets.advantages * actors.policy(rollout).logp, mask).sum() / mask.sum())
    for a, b in zip(found, torch.autograd.grad(plain, parameters), strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-3)
    assert max(gradient.abs().max() for gradient in found) > 1e-3


@architectures
def test_field_B12_reference_equal_to_the_policy_gives_kl_0(architecture: str) -> None:
    rollout = rolled(architecture)
    assert torch.equal(rollout.logp, rollout.ref_logp)
    actors = tiny_actors(architecture)
    with torch.no_grad():
        actors.policy.model.get_output_embeddings().weight.mul_(1.5)
    moved = actors.roll_out(make_prompts(LENGTHS), ("test", 0))
    assert (moved.logp - moved.ref_logp)[moved.response_mask].abs().max() > 0.1


RESTRICTED = [
    Sampling(top_k=7),
    Sampling(top_p=0.6),
    Sampling(top_k=40, top_p=0.8, temperature=0.7),
]


@architectures
@pytest.mark.parametrize("sampling", RESTRICTED, ids=["top_k", "top_p", "both"])
@torch.no_grad()
def test_kept_ids_renormalise_policy_and_reference(architecture: str, sampling: Sampling) -> None:
    policy, rollout = tiny_policy(architecture, sampling), rolled(architecture, sampling)
    kept = rollout.kept
    assert kept is not None
    for row, length in enumerate(rollout.lengths.tolist()):
        single = rollout[torch.tensor([row])].trimmed()
        ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
        logits = policy.model(input_ids=ids).logits[0, single.prompt_ids.shape[1] - 1 : -1]
        logits = logits.double() / sampling.temperature
        for t in range(length):
            start, count = int(kept.starts[row, t]), int(kept.counts[row, t])
            left = kept.ids[start : start + count].long()
            chosen = left == single.response_ids[0, t]
            assert count > 0 and int(chosen.sum()) == 1
            expected = logits[t, left].log_softmax(dim=0)[chosen]
            assert float(rollout.logp[row, t]) == pytest.approx(float(expected), abs=1e-4)
    assert torch.allclose(rollout.logp, rollout.ref_logp, atol=1e-5)
    free = replace(policy(replace(rollout, kept=None)), values=rollout.values)
    assert (free.logp - rollout.logp)[rollout.response_mask].abs().max() > 1e-2
    alone_again = policy(rollout[torch.tensor([1])].trimmed())
    length = int(rollout.lengths[1])
    assert torch.allclose(alone_again.logp[0], rollout.logp[1, :length], atol=1e-5)


@pytest.mark.parametrize("kind", list(ValueKind), ids=[kind.value for kind in ValueKind])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_field_B13_poison_in_masked_slots_changes_nothing(kind: ValueKind, poison: float) -> None:
    """Ids outside every vocabulary, and numbers that are none: outputs, loss, gradients to the bit."""
    policy, rollout = make_policy(kind), rolled("llama")
    assert not rollout.response_mask.all() and not rollout.prompt_mask.all()
    algorithm = PPO(entropy_coef=0.01)
    state = algorithm.initial_state()
    outcomes = []
    for dirty in (rollout, poisoned(rollout, 0.0), poisoned(rollout, poison)):
        mask = dirty.response_mask
        rewards = torch.where(mask, torch.cos(rollout.response_ids.float()), poison)
        targets = algorithm.targets(dirty, algorithm.shape(rewards, dirty, state))
        output = policy(dirty)
        loss = algorithm.loss(output, dirty, targets, state).total
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters)
        outcomes.append([output.logp, output.values, output.entropy, loss, *gradients])
    for clean, *others in zip(*outcomes, strict=True):
        assert clean.isfinite().all()
        assert all(torch.equal(clean, other) for other in others)


def test_field_B13_multiplying_by_the_mask_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rollout = make_policy(), rolled("llama")
    dirty, algorithm = poisoned(rollout, float("nan")), PPO()
    state = algorithm.initial_state()
    targets = algorithm.targets(
        rollout, algorithm.shape(torch.cos(rollout.response_ids.float()), rollout, state)
    )
    assert algorithm.loss(policy(dirty), dirty, targets, state).total.isfinite()
    monkeypatch.setattr(losses_module, "keep", lambda x, mask: x * mask)
    assert not algorithm.loss(policy(dirty), dirty, targets, state).total.isfinite()


def test_value_head_starts_at_zero() -> None:
    policy = PolicyWithValue(tiny_causal(), SpecialIds(eos=EOS_ID, pad=PAD_ID), Sampling())
    with torch.no_grad():
        assert (policy(rolled("llama")).values == 0).all()

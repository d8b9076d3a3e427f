"""Log-probabilities and values: by hand, alone or in company, under the sampling distribution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tokencredit.models.policy as policy_module
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
from tokencredit.algorithms.ppo import PPO
from tokencredit.models.lora import adapted
from tokencredit.models.model import Lora
from tokencredit.models.policy import PolicyWithValue, Reference, SpecialIds
from tokencredit.models.sampling import LogprobMask, Sampling
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout

LENGTHS = [2, 7, 4, 5]
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def rolled(architecture: str, sampling: Sampling | None = None, seed: int = 0) -> Rollout:
    prompts = make_prompts(LENGTHS, max_new=[6, 9, 12, 3], min_new=2)
    return tiny_actors(architecture, sampling, seed).roll_out(prompts, ("test", 0))


def alone(rollout: Rollout, row: int) -> Rollout:
    """One row without any padding."""
    part, length = rollout[torch.tensor([row])], int(rollout.lengths[row])
    prompt = int(part.prompt_mask.sum())
    cut = {
        name: getattr(part, name)[:, :length]
        for name in ("response_ids", "response_mask", "logp", "ref_logp", "values")
    }
    return replace(
        part,
        prompt_ids=part.prompt_ids[:, -prompt:],
        prompt_mask=part.prompt_mask[:, -prompt:],
        **cut,
    )


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
def test_field_B10_without_position_ids_it_differs(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rollout = tiny_policy(architecture), rolled(architecture)
    before = policy(rollout)
    moved = padded(rollout, 4, 0, PAD_ID)
    assert gap(before, policy(moved), rollout.response_mask) < 1e-5

    def naive(mask: Tensor) -> Tensor:
        return torch.arange(mask.shape[1]).expand(mask.shape)

    monkeypatch.setattr(policy_module, "position_ids", naive)
    differs = gap(before, policy(moved), rollout.response_mask) > 1e-3
    assert differs or architecture == "llama"  # rotary positions are relative
    if architecture == "llama":
        monkeypatch.setattr(
            policy_module, "position_ids", lambda mask: naive(mask) * (1 + mask.long())
        )
        assert gap(before, policy(rollout), rollout.response_mask) > 1e-3


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
    targets = algorithm.targets(rollout, keep(torch.cos(rollout.response_ids.float()), mask))
    parameters = list(actors.policy.model.parameters())
    loss = algorithm.loss(actors.policy(rollout), rollout, targets).total / mask.sum()
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


def test_reference_of_a_policy_with_adapters_is_the_policy_without() -> None:
    plain = tiny_causal()
    adapters = adapted(tiny_causal(), Lora(enabled=True, r=4, alpha=8))
    policy = PolicyWithValue(adapters, SpecialIds(eos=EOS_ID, pad=PAD_ID), Sampling())
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    reference = Reference(policy, None)
    rollout = rolled("llama")
    with torch.no_grad():
        own = policy(rollout).logp
        base = PolicyWithValue(plain, policy.ids, policy.sampling)(rollout).logp
        assert torch.allclose(reference.logp(rollout), base, atol=1e-5)
        assert (own - base)[rollout.response_mask].abs().max() > 0.1
        assert torch.equal(policy(rollout).logp, own)  # adapters are on again


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_field_B13_poison_moves_no_gradient_of_the_model(poison: float) -> None:
    actors = tiny_actors()
    rollout = actors.roll_out(make_prompts(LENGTHS, max_new=[3, 9, 5, 12]), ("test", 0))
    mask = rollout.response_mask
    assert not mask.all()
    algorithm = PPO(entropy_coef=0.01)
    gradients = []
    for fill in (0.0, poison):
        dirty = replace(
            rollout,
            logp=torch.where(mask, rollout.logp, fill),
            ref_logp=torch.where(mask, rollout.ref_logp - 0.3, fill),
            values=torch.where(mask, rollout.values, fill),
        )
        rewards = torch.where(mask, torch.cos(rollout.response_ids.float()), fill)
        targets = algorithm.targets(dirty, algorithm.shape(rewards, dirty, 0.2))
        loss = algorithm.loss(actors.policy(dirty), dirty, targets).total
        gradients.append(torch.autograd.grad(loss, list(actors.policy.parameters())))
    for clean, other in zip(*gradients, strict=True):
        assert clean.isfinite().all() and torch.equal(clean, other)


def test_chunked_logits_are_the_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rollout = tiny_policy(), rolled("llama")
    mask = rollout.response_mask

    def loss_and_gradients() -> tuple[Tensor, tuple[Tensor, ...]]:
        output = policy(rollout)
        loss = keep(output.logp + 0.1 * output.entropy, mask).sum()
        return loss, torch.autograd.grad(loss, list(policy.model.parameters()))

    whole = loss_and_gradients()
    monkeypatch.setattr(policy_module, "CHUNK", 7)
    parts = loss_and_gradients()
    assert torch.allclose(whole[0], parts[0], rtol=1e-5)
    for a, b in zip(whole[1], parts[1], strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-3)


def test_value_head_starts_at_zero() -> None:
    policy = PolicyWithValue(tiny_causal(), SpecialIds(eos=EOS_ID, pad=PAD_ID), Sampling())
    with torch.no_grad():
        assert (policy(rolled("llama")).values == 0).all()

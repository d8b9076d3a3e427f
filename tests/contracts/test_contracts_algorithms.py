"""What every registered policy algorithm promises, with its defaults and with other settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from batches import (
    MEASURED,
    gradients,
    grouped_rollout,
    output_of,
    rewards_of,
    shaped_by,
    shaped_of,
    step,
    targets_of,
    widened,
)
from tokencredit.algorithms.advantages import GroupBaseline, Whiten
from tokencredit.algorithms.algorithm import Algorithm, Decision
from tokencredit.algorithms.grpo import GRPO
from tokencredit.algorithms.kl import Estimator, KLPenalty
from tokencredit.algorithms.losses import Aggregation
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.ppo_penalty import Direction, Penalty, PPOPenalty
from tokencredit.algorithms.reinforce import RLOO, Baseline, Reinforce
from tokencredit.algorithms.remax import ReMax
from tokencredit.algorithms.scores import Normalise
from tokencredit.config import COMPONENTS
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout

DEFAULTS: list[Algorithm] = [
    component() for component in COMPONENTS["algorithm"] if issubclass(component, Algorithm)
]
SEQUENCE, TOKEN = Aggregation.sequence_mean, Aggregation.token_mean
VARIANTS: list[Algorithm] = [
    PPO(aggregation=SEQUENCE, whiten=Whiten.biased, entropy_coef=0.01, gamma=0.9),
    PPO(kl=KLPenalty(estimator=Estimator.full), normalise=Normalise.return_std, value_clip=None),
    PPOPenalty(penalty=Penalty(direction=Direction.old_new, coef=3.0), whiten=Whiten.none),
    Reinforce(baseline=Baseline.running, gamma=0.9, entropy_coef=0.01),
    Reinforce(baseline=Baseline.none, whiten=Whiten.unbiased, missing_eos_penalty=1.0),
    RLOO(group_baseline=GroupBaseline.total, aggregation=SEQUENCE, reward_clip=0.5),
    GRPO(group_baseline=GroupBaseline.total, divide_by_sd=False, aggregation=TOKEN),
    ReMax(gamma=0.9, return_clip=None, aggregation=SEQUENCE),
]
LENGTHS, GROUPS = [4, 1, 3, 6, 2, 5, 6, 1], [7, 7, 3, 3, 3, 7, 0, 0]
every_algorithm = pytest.mark.parametrize(
    "algorithm", [*DEFAULTS, *VARIANTS], ids=lambda a: type(a).__name__
)


def batch(width: int | None = None) -> Rollout:
    return grouped_rollout(LENGTHS, GROUPS, width=width)


@every_algorithm
def test_targets_have_shape_and_zeros_and_no_gradient(algorithm: Algorithm) -> None:
    rollout = batch(width=8)
    targets, _ = step(algorithm, rollout, output_of(rollout))
    for values in (targets.advantages, targets.returns):
        assert values.shape == rollout.response_mask.shape and values.dtype == torch.float32
        assert (values[~rollout.response_mask] == 0).all() and not values.requires_grad
    assert targets.advantages.abs().max() > 0.1


def split(algorithm: Algorithm, parts: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Total and gradients of a minibatch that is computed in so many parts."""
    rollout = batch()
    shaped, state = shaped_by(algorithm, rollout)
    targets, output = algorithm.targets(rollout, shaped), output_of(rollout)
    units = algorithm.denominator(rollout.response_mask)
    found = [
        algorithm.loss(output[rows], rollout[rows], targets[rows], state)
        for rows in torch.arange(len(rollout)).tensor_split(parts)
    ]
    total = torch.stack([loss.total / units for loss in found]).sum()
    sums = {name: torch.stack([f.sums[name] for f in found]).sum() for name in found[0].sums}
    assert not any(value.requires_grad for value in sums.values())
    return total.detach(), {**gradients(output, total), **sums}


@every_algorithm
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_field_B16_parts_of_a_minibatch_sum_to_the_whole(algorithm: Algorithm, parts: int) -> None:
    whole, halves = split(algorithm, 1), split(algorithm, parts)
    assert torch.allclose(whole[0], halves[0], atol=1e-6)
    for name, value in whole[1].items():
        assert torch.allclose(value, halves[1][name], atol=1e-6), name


@every_algorithm
def test_field_B16_a_mean_of_means_would_be_noticed(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean(self: Aggregation, per_token: Tensor, mask: Tensor) -> Tensor:
        return per_token[mask].mean() * 10

    monkeypatch.setattr(Aggregation, "summed", mean)
    whole, halves = split(algorithm, 1), split(algorithm, 2)
    assert not torch.allclose(whole[1]["logp"], halves[1]["logp"], atol=1e-4)


@every_algorithm
def test_a_minibatch_said_twice_has_the_same_mean_loss(algorithm: Algorithm) -> None:
    rollout = batch()
    shaped, state = shaped_by(algorithm, rollout)
    targets, output = algorithm.targets(rollout, shaped), output_of(rollout)
    means = []
    for rows in (torch.arange(8), torch.arange(16) % 8):
        loss = algorithm.loss(output[rows], rollout[rows], targets[rows], state)
        means.append(loss.total / algorithm.denominator(rollout.response_mask[rows]))
    assert torch.allclose(means[0], means[1], atol=1e-6)


def everything(algorithm: Algorithm, fill: float) -> dict[str, Tensor]:
    """All that an algorithm computes, with `fill` in every slot that does not count."""
    rollout = batch(width=8)
    mask = rollout.response_mask
    names = ("logp", "ref_logp", "values", "full_kl")
    dirty = replace(
        rollout, **{name: torch.where(mask, getattr(rollout, name), fill) for name in names}
    )
    rewards = torch.where(mask, rewards_of(rollout), fill)
    output = output_of(rollout, fill=fill)
    shaped, state = shaped_by(algorithm, dirty, rewards)
    targets = algorithm.targets(dirty, shaped)
    soiled = type(targets)(
        advantages=torch.where(mask, targets.advantages, fill),
        returns=torch.where(mask, targets.returns, fill),
    )
    loss = algorithm.loss(output, dirty, soiled, state)

    def read(measure: Callable[..., dict[str, Tensor]]) -> dict[str, float]:
        return {name: float(value) for name, value in measure(output, dirty).items()}

    return {
        "total": loss.total.detach(),
        **loss.sums,
        **{f"slope of {name}": g for name, g in gradients(output, loss.total).items()},
        **{n: torch.tensor(x) for n, x in algorithm.after_update(read).items()},
        **{n: torch.tensor(x) for n, x in algorithm.measure(dirty, shaped).items()},
        "rewards": shaped.rewards,
        "penalty": shaped.penalty,
        "advantages": targets.advantages,
        "returns": targets.returns,
    }


@every_algorithm
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 1e9])
def test_field_B13_what_is_masked_moves_no_bit(algorithm: Algorithm, poison: float) -> None:
    clean, dirty = everything(algorithm, 0.0), everything(algorithm, poison)
    for name, value in clean.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, dirty[name]), name


@every_algorithm
def test_field_B13_multiplying_by_the_mask_would_be_noticed(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiplied(x: Tensor, mask: Tensor) -> Tensor:
        return x * mask

    for name, module in list(sys.modules.items()):
        if name.startswith("tokencredit.algorithms") and hasattr(module, "keep"):
            monkeypatch.setattr(module, "keep", multiplied)
    assert everything(algorithm, float("nan"))["total"].isnan()


@every_algorithm
@pytest.mark.parametrize("extra", [1, 50])
def test_papers_S3_padding_changes_nothing(algorithm: Algorithm, extra: int) -> None:
    narrow, wide = batch(), batch(width=6 + extra)
    first = output_of(narrow)
    second = PolicyOutput(
        logp=widened(first.logp, extra, float("nan")),
        values=widened(first.values, extra, float("nan")),
        entropy=widened(first.entropy, extra, float("nan")),
    )
    before, loss = step(algorithm, narrow, first)
    rewards = widened(rewards_of(narrow), extra)
    after, other = step(algorithm, wide, second, rewards)
    assert torch.allclose(widened(before.advantages, extra), after.advantages, atol=1e-6)
    assert torch.allclose(widened(before.returns, extra), after.returns, atol=1e-6)
    assert torch.allclose(loss.total, other.total, atol=1e-5)
    for name, value in loss.sums.items():
        assert torch.allclose(value, other.sums[name], atol=1e-5), name


ORDER = torch.tensor([2, 0, 3, 1, 7, 5, 4, 6])


def reordered(algorithm: Algorithm) -> tuple[list[Tensor], list[Tensor]]:
    rollout = batch()
    found = []
    for rows in (torch.arange(8), ORDER):
        targets, loss = step(algorithm, rollout[rows], output_of(rollout[rows]))
        found.append([targets.advantages, targets.returns, loss.total])
    return [x[ORDER] if x.dim() else x for x in found[0]], found[1]


@every_algorithm
def test_order_of_the_rows_does_not_matter(algorithm: Algorithm) -> None:
    for before, after in zip(*reordered(algorithm), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def test_a_group_that_is_known_by_its_place_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tokencredit.algorithms import advantages

    plain = advantages.group_sum

    def by_place(x: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        return plain(x, torch.arange(len(groups)) // 2)

    monkeypatch.setattr(advantages, "group_sum", by_place)
    for algorithm in (RLOO(), GRPO()):
        before, after = reordered(algorithm)
        assert not torch.allclose(before[0], after[0], atol=1e-2)


@every_algorithm
def test_a_better_response_is_made_likelier(algorithm: Algorithm) -> None:
    rollout = grouped_rollout([3, 3], [0, 0])
    rollout = replace(rollout, ref_logp=rollout.logp, values=torch.zeros(2, 3))
    shaped = shaped_of(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]), baseline=torch.zeros(2))
    output, state = output_of(rollout, shift=0.0), algorithm.initial_state()
    loss = algorithm.loss(output, rollout, algorithm.targets(rollout, shaped), state)
    gradient = gradients(output, loss.total)["logp"]
    assert (gradient[0] < 0).all() and (gradient[1] > 0).all()


def first_gradient(algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """By log π where the policy is still the rollout's, and what it should be."""
    rollout = batch()
    rollout = replace(rollout, ref_logp=rollout.logp)  # a KL in the loss has no slope there
    targets, output = targets_of(rollout), output_of(rollout, shift=0.0)
    loss = algorithm.loss(output, rollout, targets, algorithm.initial_state())
    share = torch.ones(8) if algorithm.aggregation is TOKEN else 1 / rollout.lengths
    wanted = keep(-targets.advantages * share[:, None], rollout.response_mask)
    return gradients(output, loss.total)["logp"], wanted


@every_algorithm
def test_papers_S4_first_gradient_is_that_of_the_policy_gradient(algorithm: Algorithm) -> None:
    found, wanted = first_gradient(algorithm)
    assert torch.allclose(found, wanted, atol=1e-6)


@every_algorithm
def test_papers_S4_other_log_probabilities_would_be_noticed(algorithm: Algorithm) -> None:
    rollout = batch()
    output = output_of(rollout, shift=0.0)
    other = replace(rollout, logp=keep(rollout.logp - 0.5, rollout.response_mask))
    loss = algorithm.loss(output, other, targets_of(rollout), algorithm.initial_state())
    assert loss.sums["ppo/approx_kl"] > 0.1 * rollout.response_mask.sum()
    assert loss.sums["ppo/ratio_mean"] > 1.5 * rollout.response_mask.sum()


@every_algorithm
def test_verdicts_read_what_losses_give(algorithm: Algorithm) -> None:
    rollout = batch()
    tokens = int(rollout.response_mask.sum())
    for shift, found in ((0.0, Decision.take), (12.0, Decision.skip)):
        _, loss = step(algorithm, rollout, output_of(rollout, shift=shift))
        means = {name: float(value) / tokens for name, value in loss.sums.items()}
        assert algorithm.decide(means) is found
    assert algorithm.ratio_threshold is not None
    algorithm = replace(algorithm, kl_stop=0.01)
    assert algorithm.decide(means) is Decision.stop
    assert algorithm.decide({**means, "ppo/approx_kl": 0.01, "ppo/ratio_mean": 10.0}) is (
        Decision.take  # neither exceeds its limit
    )
    algorithm = replace(algorithm, kl_stop=None, ratio_threshold=None)
    assert algorithm.decide(means) is Decision.take


@every_algorithm
def test_field_B35_state_is_numbers_and_keeps_its_names(algorithm: Algorithm) -> None:
    state = algorithm.initial_state()
    after = algorithm.next_state({**state, "other": 3.0}, MEASURED, 16)
    assert after.keys() == {*state, "other"} and after["other"] == 3.0
    assert all(isinstance(value, float) for value in after.values())


@every_algorithm
def test_values_have_a_slope_and_an_optimizer_where_they_are_used(algorithm: Algorithm) -> None:
    rollout = batch()
    output = output_of(rollout)
    _, loss = step(algorithm, rollout, output)
    slopes = gradients(output, loss.total)
    assert (slopes["logp"] != 0).any()
    assert bool((slopes["values"] != 0).any()) is algorithm.uses_values
    assert ("value" in algorithm.optimizers()) is algorithm.uses_values

"""What every registered policy algorithm promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import make_rollout
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.config import COMPONENTS
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets

ALGORITHMS: list[Algorithm] = [
    component() for component in COMPONENTS["algorithm"] if issubclass(component, Algorithm)
]
LENGTHS = [4, 1, 3, 6]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)


def output_of(rollout: Rollout) -> PolicyOutput:
    mask = rollout.response_mask
    return PolicyOutput(
        logp=keep(rollout.logp + 0.05, mask).requires_grad_(),
        values=keep(rollout.values - 0.05, mask).requires_grad_(),
        entropy=keep(torch.ones(mask.shape), mask).requires_grad_(),
    )


def rewards_of(rollout: Rollout) -> Tensor:
    return keep(torch.cos(rollout.response_ids.float()), rollout.response_mask)


def targets_of(algorithm: Algorithm, rollout: Rollout) -> Targets:
    return algorithm.targets(rollout, algorithm.shape(rewards_of(rollout), rollout, 0.1))


@every_algorithm
def test_targets_have_shape_and_zeros_and_no_gradient(algorithm: Algorithm) -> None:
    rollout = make_rollout(LENGTHS, width=8)
    targets = targets_of(algorithm, rollout)
    for values in (targets.advantages, targets.returns):
        assert values.shape == rollout.response_mask.shape and values.dtype == torch.float32
        assert (values[~rollout.response_mask] == 0).all() and not values.requires_grad


@every_algorithm
def test_loss_is_a_sum_over_tokens(algorithm: Algorithm) -> None:
    rollout = make_rollout(LENGTHS)
    targets, output = targets_of(algorithm, rollout), output_of(rollout)
    whole = algorithm.loss(output, rollout, targets)
    rows = [torch.tensor([row]) for row in range(4)]
    parts = [algorithm.loss(output[r], rollout[r], targets[r]) for r in rows]
    assert torch.allclose(whole.total, torch.stack([part.total for part in parts]).sum(), atol=1e-5)
    for name, value in whole.sums.items():
        assert torch.allclose(value, torch.stack([p.sums[name] for p in parts]).sum(), atol=1e-5)
        assert not value.requires_grad
    assert whole.total.requires_grad


@every_algorithm
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_what_is_masked_moves_no_bit(algorithm: Algorithm, poison: float) -> None:
    rollout = make_rollout(LENGTHS, width=8)
    mask = rollout.response_mask
    dirty = replace(
        rollout,
        **{
            n: torch.where(mask, getattr(rollout, n), poison)
            for n in ("logp", "ref_logp", "values")
        },
    )
    clean_targets = targets_of(algorithm, rollout)
    dirty_targets = targets_of(algorithm, dirty)
    assert torch.equal(clean_targets.advantages, dirty_targets.advantages)
    assert torch.equal(clean_targets.returns, dirty_targets.returns)
    output = output_of(rollout)
    clean = algorithm.loss(output, rollout, clean_targets)
    other = algorithm.loss(output, dirty, dirty_targets)
    assert torch.equal(clean.total, other.total)
    assert all(torch.equal(clean.sums[name], other.sums[name]) for name in clean.sums)


@every_algorithm
def test_order_of_the_rows_does_not_matter(algorithm: Algorithm) -> None:
    rollout = make_rollout(LENGTHS)
    order = torch.tensor([2, 0, 3, 1])
    targets = targets_of(algorithm, rollout)
    shuffled = targets_of(algorithm, rollout[order])
    assert torch.allclose(shuffled.advantages, targets.advantages[order], atol=1e-6)
    assert torch.allclose(shuffled.returns, targets.returns[order], atol=1e-6)


@every_algorithm
def test_a_better_response_is_made_likelier(algorithm: Algorithm) -> None:
    rollout = replace(make_rollout([3, 3]), ref_logp=make_rollout([3, 3]).logp)
    rollout = replace(rollout, values=torch.zeros(2, 3))
    shaped = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    output = output_of(rollout)
    algorithm.loss(output, rollout, algorithm.targets(rollout, shaped)).total.backward()
    gradient = output.logp.grad
    assert gradient is not None and (gradient[0] < 0).all() and (gradient[1] > 0).all()

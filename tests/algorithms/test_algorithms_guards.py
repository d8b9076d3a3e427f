"""Small things that losses and their metrics depend on, each by hand.

The ratio that is only logged has no graph, and could have one without any number being another:
its term has no weight in the loss, and what is logged of any term is detached.
"""

from __future__ import annotations

import math

import pytest
import torch

from batches import grouped_rollout, shaped_of, targets_of
from builders import make_rollout
from tokencredit.algorithms.advantages import group_spread
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.grpo import GRPO
from tokencredit.algorithms.ppo import PPO
from tokencredit.rollout import PolicyOutput

ONE_ULP = 2.0**-23
"""The least by which a float32 between 1 and 2 can differ from another."""


@pytest.mark.parametrize("size", [1.0, 1024.0, 2.0**-20])
def test_a_group_that_differs_by_rounding_has_no_spread(size: float) -> None:
    """Of any size: two neighbouring numbers are equal scores summed in another order."""
    groups = torch.tensor([0, 0, 7, 7])
    x = size * torch.tensor([[1.0], [1.0 + ONE_ULP], [1.0], [1.0 + 1e-3]])
    found = group_spread(x, groups)[:, 0]
    assert found[:2].isinf().all()
    assert found[2:].tolist() == pytest.approx([size * 1e-3 / math.sqrt(2)] * 2, rel=1e-3)


def test_grpo_gives_no_advantage_for_the_last_bit_of_a_score() -> None:
    rollout = grouped_rollout([1, 1], [0, 0])
    found = GRPO().targets(rollout, shaped_of(torch.tensor([[1.0], [1.0 + ONE_ULP]]))).advantages
    assert found.abs().max() < 1e-5
    found = GRPO().targets(rollout, shaped_of(torch.tensor([[1.0], [1.001]]))).advantages
    assert found.abs().max() > 0.7


@pytest.mark.parametrize("kind", [PPO, GRPO])
def test_the_clip_fraction_counts_ratios_and_not_their_logarithms(kind: type[Algorithm]) -> None:
    """log 1.21 < 0.2 though 1.21 is clipped; −log 0.81 > 0.2 though 0.81 is not."""
    clipped = {1.21: 1, 1.19: 0, 0.81: 0, 0.79: 1}
    for ratio, expected in clipped.items():
        rollout = make_rollout([1])
        moved = PolicyOutput(
            logp=rollout.logp + math.log(ratio),
            values=rollout.values,
            entropy=torch.zeros(rollout.logp.shape),
        )
        algorithm = kind()
        state = algorithm.initial_state()
        sums = algorithm.loss(moved, rollout, targets_of(rollout), state).sums
        assert sums["ppo/clip_fraction"].item() == expected, ratio

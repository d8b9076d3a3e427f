"""What an algorithm is given, made up: rewards, outputs, states; for tests of algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from builders import make_rollout
from tokencredit.algorithms.algorithm import Algorithm, Loss, Shaped, State
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets

MEASURED = {"kl/k1": 1.5, "reward/return": 0.5, "penalty/final_kl": 0.02}
"""What a step measures, as far as any algorithm reads it."""


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def shaped_of(
    rewards: Tensor, penalty: Tensor | None = None, baseline: Tensor | None = None
) -> Shaped:
    """Rewards as an algorithm sees them, without a penalty unless one is given."""
    none = torch.zeros_like(rewards)
    return Shaped(rewards=rewards, penalty=none if penalty is None else penalty, baseline=baseline)


def grouped_rollout(
    lengths: Sequence[int], groups: Sequence[int], *, width: int | None = None, seed: int = 0
) -> Rollout:
    """A made-up rollout of several responses to each prompt, with its exact KL."""
    rollout = make_rollout(lengths, width=width, seed=seed)
    exact = keep((rollout.logp - rollout.ref_logp).square(), rollout.response_mask)
    return replace(rollout, groups=torch.tensor(groups), full_kl=exact)


def output_of(rollout: Rollout, shift: float = 0.1, fill: float = 0.0) -> PolicyOutput:
    """What a policy a little further on would say; `fill` stands where nothing counts.

    Rows differ by their ids, not by their place, so that selections of rows agree.
    """
    mask = rollout.response_mask
    wave = shift * torch.sin(rollout.response_ids.float())
    return PolicyOutput(
        logp=leaf(torch.where(mask, rollout.logp + wave, fill)),
        values=leaf(torch.where(mask, rollout.values - wave, fill)),
        entropy=leaf(torch.where(mask, 1 + wave, fill)),
    )


def rewards_of(rollout: Rollout) -> Tensor:
    return keep(torch.cos(rollout.response_ids.float()), rollout.response_mask)


def targets_of(rollout: Rollout, fill: float = 0.0) -> Targets:
    """Made-up targets; `fill` stands where nothing counts."""
    mask, wave = rollout.response_mask, torch.cos(rollout.response_ids.float())
    return Targets(
        advantages=torch.where(mask, wave, fill), returns=torch.where(mask, 2 * wave, fill)
    )


def shaped_by(
    algorithm: Algorithm, rollout: Rollout, rewards: Tensor | None = None
) -> tuple[Shaped, State]:
    """The algorithm's own shaping, with a greedy baseline for those that ask for one."""
    state = algorithm.initial_state()
    baseline = rollout.rows.float() / 10 if algorithm.responses_beside() else None
    rewards = rewards_of(rollout) if rewards is None else rewards
    return algorithm.shape(rewards, rollout, state, baseline), state


def step(
    algorithm: Algorithm, rollout: Rollout, output: PolicyOutput, rewards: Tensor | None = None
) -> tuple[Targets, Loss]:
    """From rewards to the loss of one forward pass."""
    shaped, state = shaped_by(algorithm, rollout, rewards)
    targets = algorithm.targets(rollout, shaped)
    return targets, algorithm.loss(output, rollout, targets, state)


def gradients(output: PolicyOutput, total: Tensor) -> dict[str, Tensor]:
    """Slopes of `total` by the fields of `output`; zero where it does not read one."""
    names = [item.name for item in fields(output) if getattr(output, item.name) is not None]
    leaves = [getattr(output, name) for name in names]
    slopes: Sequence[Tensor | None] = torch.autograd.grad(total, leaves, allow_unused=True)
    pairs = zip(names, leaves, slopes, strict=True)
    return {name: torch.zeros_like(x) if g is None else g for name, x, g in pairs}


def widened(x: Tensor, extra: int, fill: float = 0.0) -> Tensor:
    return torch.nn.functional.pad(x, (0, extra), value=fill)

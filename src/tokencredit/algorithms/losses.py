"""Losses of single tokens, and how they become one number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float

from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout


class Aggregation(str, Enum):
    """What a loss is a mean of."""

    token_mean = "token_mean"  # noqa: S105 - not a password
    """All tokens of the minibatch alike."""
    sequence_mean = "sequence_mean"
    """Responses alike: first the mean over the tokens of each, then over responses."""

    def summed(
        self, per_token: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
    ) -> Float[torch.Tensor, ""]:
        """The sum that, divided by `units`, is the mean; sums of parts add up to the whole's."""
        kept = keep(per_token, mask)
        if self is Aggregation.token_mean:
            return kept.sum()
        return (kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum()

    def units(self, mask: Bool[torch.Tensor, "B T"]) -> int:
        """Counting tokens, or responses that have any."""
        return int(mask.sum() if self is Aggregation.token_mean else mask.any(dim=1).sum())


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a loss, token by token; what stands where nothing counts is never read."""

    name: str
    """Its metric: the token mean over all minibatches of a step."""
    per_token: Float[torch.Tensor, "B T"]
    weight: float | None = None
    """Its weight in the loss; None: it is only logged."""


def log_ratio(output: PolicyOutput, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
    """log π − log π_old of the sampled tokens, zero where masked."""
    mask = rollout.response_mask
    return keep(output.logp - keep(rollout.logp, mask), mask)


def policy_loss(
    log_ratio: Float[torch.Tensor, "*S"], advantages: Float[torch.Tensor, "*S"], clip: float
) -> Float[torch.Tensor, "*S"]:
    """−min(ρ A, clip(ρ, 1 ± ε) A) for each token (Schulman et al. 2017, eq. 7)."""
    ratio = log_ratio.exp()
    return torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages)


def outside_by(change: Float[torch.Tensor, "*S"], limit: float) -> Float[torch.Tensor, "*S"]:
    """1 where |change| > limit, else 0."""
    return (change.detach().abs() > limit).to(change.dtype)


def value_loss(
    values: Float[torch.Tensor, "*S"],
    old_values: Float[torch.Tensor, "*S"],
    returns: Float[torch.Tensor, "*S"],
    clip: float | None,
) -> Float[torch.Tensor, "*S"]:
    """½ max((V − G)², (V_old + clip(V − V_old, ±ε) − G)²) for each token."""
    loss = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns).square())
    return 0.5 * loss


def kl_new_old(log_ratio: Float[torch.Tensor, "*S"]) -> Float[torch.Tensor, "*S"]:
    """ρ log ρ − (ρ − 1): its mean under the old policy is KL(new ‖ old); never negative."""
    return log_ratio.exp() * log_ratio - torch.expm1(log_ratio)


def kl_old_new(log_ratio: Float[torch.Tensor, "*S"]) -> Float[torch.Tensor, "*S"]:
    """(ρ − 1) − log ρ: its mean under the old policy is KL(old ‖ new); never negative."""
    return torch.expm1(log_ratio) - log_ratio

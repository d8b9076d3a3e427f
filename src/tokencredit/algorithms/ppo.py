"""Proximal policy optimisation with a value function and token-level rewards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokencredit.algorithms.advantages import gae
from tokencredit.algorithms.algorithm import Algorithm, Loss
from tokencredit.errors import require
from tokencredit.ops import keep, whiten
from tokencredit.rollout import PolicyOutput, Rollout, Targets


def policy_loss(
    log_ratio: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"], clip: float
) -> Float[Tensor, "B T"]:
    """−min(ρ A, clip(ρ, 1 ± ε) A) for each token (Schulman et al. 2017, eq. 7)."""
    ratio = log_ratio.exp()
    return torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    clip: float | None,
) -> Float[Tensor, "B T"]:
    """½ max((V − G)², (V_old + clip(V − V_old, ±ε) − G)²) for each token."""
    loss = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns).square())
    return 0.5 * loss


@dataclass(slots=True, kw_only=True)
class PPO(Algorithm):
    """Clipped PPO with generalised advantage estimation and a clipped value loss."""

    gamma: float = 1.0
    """Discount of a token."""
    lam: float = 0.95
    """Trace decay of generalised advantage estimation."""
    clip: float = 0.2
    """The ratio is clipped to 1 ± clip."""
    value_clip: float | None = 0.2
    """Values may move this far from their rollout's; null: any distance."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus."""
    whiten: bool = True
    """Give advantages mean 0 and variance 1 over the rollout (masked, unbiased)."""
    ratio_threshold: float | None = 10.0
    """A minibatch whose mean ratio exceeds this is skipped and counted; null: never."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        self.check()
        require(0 <= self.gamma <= 1, "algorithm.gamma", self.gamma, "must lie in [0, 1]")
        require(0 <= self.lam <= 1, "algorithm.lam", self.lam, "must lie in [0, 1]")
        require(0 < self.clip < 1, "algorithm.clip", self.clip, "must lie between 0 and 1")
        require(
            self.value_clip is None or self.value_clip > 0,
            "algorithm.value_clip",
            self.value_clip,
            "must be null or > 0",
        )
        require(self.value_coef >= 0, "algorithm.value_coef", self.value_coef, "must be >= 0")
        require(self.entropy_coef >= 0, "algorithm.entropy_coef", self.entropy_coef, "must be >= 0")
        require(
            self.ratio_threshold is None or self.ratio_threshold > 1,
            "algorithm.ratio_threshold",
            self.ratio_threshold,
            "must be null or > 1",
        )

    def targets(self, rollout: Rollout, shaped: Float[Tensor, "B T"]) -> Targets:
        """Advantages (whitened if asked) and returns (always before whitening)."""
        mask = rollout.response_mask
        advantages, returns = gae(shaped, rollout.values, mask, gamma=self.gamma, lam=self.lam)
        if self.whiten:
            advantages = whiten(advantages, mask)
        return Targets(advantages=advantages, returns=returns)

    def loss(self, output: PolicyOutput, rollout: Rollout, targets: Targets) -> Loss:
        """Policy loss + value_coef × value loss - entropy_coef × entropy, summed over tokens."""
        mask = rollout.response_mask
        log_ratio = keep(output.logp - keep(rollout.logp, mask), mask)
        advantages = keep(targets.advantages, mask)
        policy = keep(policy_loss(log_ratio, advantages, self.clip), mask).sum()
        value = keep(
            value_loss(
                keep(output.values, mask),
                keep(rollout.values, mask),
                keep(targets.returns, mask),
                self.value_clip,
            ),
            mask,
        ).sum()
        entropy = keep(output.entropy, mask).sum()
        total = policy + self.value_coef * value
        if self.entropy_coef > 0:
            total = total - self.entropy_coef * entropy
        sums = {
            "ppo/policy_loss": policy,
            "value/loss": value,
            "ppo/entropy": entropy,
            **self._diagnostics(log_ratio.detach(), mask),
        }
        return Loss(total=total, sums={name: item.detach() for name, item in sums.items()})

    def skips(self, loss: Loss, tokens: int) -> bool:
        """Whether the mean ratio of the minibatch exceeds `ratio_threshold`."""
        mean_ratio = float(loss.sums["ppo/ratio_mean"]) / max(1, tokens)
        return self.ratio_threshold is not None and mean_ratio > self.ratio_threshold

    def _diagnostics(
        self, log_ratio: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> dict[str, Float[Tensor, ""]]:
        ratio = log_ratio.exp()
        outside = ((ratio - 1).abs() > self.clip) & mask
        return {
            "ppo/ratio_mean": keep(ratio, mask).sum(),
            "ppo/clip_fraction": outside.float().sum(),
            "ppo/approx_kl": keep(torch.expm1(log_ratio) - log_ratio, mask).sum(),
        }

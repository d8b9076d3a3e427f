"""The base of all policy algorithms."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.procedure import Procedure
from tokencredit.errors import require
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss to minimise, as a sum over tokens, and its parts for the log."""

    total: Float[Tensor, ""]
    """Sum over the counting tokens; the engine divides by the global token count."""
    sums: dict[str, Float[Tensor, ""]]
    """Per-token sums without gradient; the engine averages them over tokens."""


@dataclass(slots=True, kw_only=True)
class Algorithm(Procedure):
    """Turns rewards into targets and targets into a loss. Knows no devices and no optimizers."""

    batch_size: int = 16
    """Responses of one step."""
    epochs: int = 4
    """Passes over the rollout in one step."""
    minibatches: int = 4
    """Optimizer steps of one pass."""
    reward_clip: float | None = None
    """Token rewards are clipped to this magnitude before the KL penalty; null: not at all."""
    kl: KLPenalty = field(default_factory=KLPenalty)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def check(self) -> None:
        """Raise for values out of range."""
        require(self.batch_size >= 1, "algorithm.batch_size", self.batch_size, "must be >= 1")
        require(self.epochs >= 1, "algorithm.epochs", self.epochs, "must be >= 1")
        require(
            1 <= self.minibatches <= self.batch_size,
            "algorithm.minibatches",
            self.minibatches,
            f"must lie between 1 and algorithm.batch_size = {self.batch_size}",
        )
        require(
            self.reward_clip is None or self.reward_clip > 0,
            "algorithm.reward_clip",
            self.reward_clip,
            "must be null or > 0",
        )

    def shape(
        self, rewards: Float[Tensor, "B T"], rollout: Rollout, kl_coef: float
    ) -> Float[Tensor, "B T"]:
        """Rewards as the learner sees them: clipped, minus the KL penalty, zero where masked."""
        if self.reward_clip is not None:
            rewards = rewards.clamp(-self.reward_clip, self.reward_clip)
        return keep(rewards.float(), rollout.response_mask) - kl_coef * self.kl.per_token(rollout)

    @abstractmethod
    def targets(self, rollout: Rollout, shaped: Float[Tensor, "B T"]) -> Targets:
        """Advantages and returns of every token."""

    @abstractmethod
    def loss(self, output: PolicyOutput, rollout: Rollout, targets: Targets) -> Loss:
        """The loss of a minibatch, summed over its tokens."""

    def skips(self, loss: Loss, tokens: int) -> bool:
        """Whether a minibatch of `tokens` tokens must be left out; the engine counts those."""
        return False

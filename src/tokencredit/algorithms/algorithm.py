"""The base of all policy algorithms."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokencredit.algorithms.advantages import Whiten, to_go
from tokencredit.algorithms.losses import Aggregation, Term, kl_old_new, log_ratio
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.shaping import Shaped, Shaping, State
from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets

__all__ = ["Algorithm", "Loss", "Shaped", "State", "Verdict"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss to minimise, as a sum over tokens, and its parts for the log."""

    total: Float[Tensor, ""]
    """Sum over the counting tokens; the engine divides by the global count (`units`)."""
    sums: dict[str, Float[Tensor, ""]]
    """Per-token sums without gradient; the engine averages them over tokens."""


class Verdict(str, Enum):
    """What becomes of a minibatch once its loss is known; the engine counts what is not taken."""

    take = "take"
    skip = "skip"
    """No optimizer step."""
    stop = "stop"
    """No optimizer step, and no further minibatches in this step."""


@dataclass(slots=True, kw_only=True)
class Algorithm(Shaping):
    """Turns rewards into targets and targets into a loss. Knows no devices and no optimizers."""

    uses_values: ClassVar[bool] = True
    """Whether there is a value function to train."""
    uses_greedy: ClassVar[bool] = False
    """Whether each prompt is also answered greedily, for a baseline."""
    uses_final: ClassVar[bool] = False
    """Whether the rollout is read once more after the last minibatch, for `final`."""

    batch_size: int = number(16, at_least=1)
    """Responses of one step."""
    samples_per_prompt: int = 1
    """Responses to each prompt; batch_size is a multiple of it."""
    epochs: int = number(4, at_least=1)
    """Passes over the rollout in one step."""
    minibatches: int = 4
    """Optimizer steps of one pass."""
    gamma: float = number(1.0, at_least=0, at_most=1)
    """Discount of a token."""
    whiten: Whiten = Whiten.none
    """none, unbiased, or biased: advantages get mean 0 and variance 1 over the rollout's tokens."""
    aggregation: Aggregation = Aggregation.token_mean
    """token_mean, or sequence_mean (the mean of each response, then the mean of these)."""
    entropy_coef: float = number(0.0, at_least=0)
    """Weight of an entropy bonus."""
    ratio_threshold: float | None = number(10.0, above=1, null="")
    """A minibatch whose mean ratio exceeds this is skipped and counted; null: never."""
    kl_stop: float | None = number(None, above=0, null="")
    """A minibatch whose mean KL to the rollout's policy (ρ − 1 − log ρ, nats a token) exceeds this
    ends the step's updates and is counted; null: never."""
    optimizer: Optimizer = field(default_factory=Optimizer)

    def check(self) -> None:
        """Raise for numbers out of range, or that do not fit one another."""
        Shaping.check(self)
        require(
            self.samples_per_prompt >= 1 and self.batch_size % self.samples_per_prompt == 0,
            "algorithm.samples_per_prompt",
            self.samples_per_prompt,
            f"must be >= 1 and divide algorithm.batch_size = {self.batch_size}",
        )
        require(
            1 <= self.minibatches <= self.batch_size,
            "algorithm.minibatches",
            self.minibatches,
            f"must lie between 1 and algorithm.batch_size = {self.batch_size}",
        )

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer's numbers for each parameter group: "policy", and "value" if there is one.

        The numbers that belong to all groups (clipping) are those of "policy".
        """
        groups = {"policy": self.optimizer}
        return groups | {"value": self.optimizer} if self.uses_values else groups

    def initial_state(self) -> State:
        """What the algorithm knows before the first step.

        With normalise=reference, whoever scores the reference's responses adds `reference_scores`.
        """
        return {"kl/coef": self.kl.coef}

    def next_state(self, state: State, measured: dict[str, float], responses: int) -> State:
        """What it knows after a step with these metrics, from a rollout of that many responses."""
        coef = self.kl.next_coef(state["kl/coef"], measured["kl/k1"], responses)
        return {**state, "kl/coef": coef}

    def measure(self, rollout: Rollout, shaped: Shaped) -> dict[str, float]:
        """Metrics of a rollout before its update; also part of what `next_state` gets."""
        mask = rollout.response_mask
        returns = to_go(shaped.total, mask, self.gamma).double()
        paid, penalty = (part.double().abs().sum() for part in (shaped.rewards, shaped.penalty))
        every = (paid + penalty).clamp(min=torch.finfo(torch.double).tiny)
        return {
            "reward/return": float(returns[:, 0].mean()),
            "reward/return_sd": float(returns[mask].std(unbiased=False)),
            "reward/kl_share": float(penalty / every),
        }

    @abstractmethod
    def targets(self, rollout: Rollout, shaped: Shaped) -> Targets:
        """Advantages and returns of every token of the whole rollout."""

    @abstractmethod
    def terms(
        self, output: PolicyOutput, rollout: Rollout, targets: Targets, state: State
    ) -> list[Term]:
        """The parts of the loss of some rows of a minibatch, token by token."""

    def loss(self, output: PolicyOutput, rollout: Rollout, targets: Targets, state: State) -> Loss:
        """Σ weight × term − entropy_coef × entropy of some rows, summed as `aggregation` says."""
        mask = rollout.response_mask
        moved = log_ratio(output, rollout).detach()
        bonus = -self.entropy_coef if self.entropy_coef > 0 else None
        terms = [
            *self.terms(output, rollout, targets, state),
            Term("ppo/entropy", output.entropy, bonus),
            Term("ppo/ratio_mean", moved.exp()),
            Term("ppo/approx_kl", kl_old_new(moved)),
        ]
        parts = [
            term.weight * self.aggregation.summed(term.per_token, mask)
            for term in terms
            if term.weight is not None
        ]
        sums = {term.name: keep(term.per_token.detach(), mask).sum() for term in terms}
        return Loss(total=torch.stack(parts).sum(), sums=sums)

    def units(self, mask: Bool[Tensor, "B T"]) -> int:
        """What the summed loss of a minibatch is divided by: its tokens, or its responses."""
        return self.aggregation.units(mask)

    def verdict(self, means: dict[str, float]) -> Verdict:
        """What becomes of a minibatch with these means (of `Loss.sums`, over all processes)."""
        if self.kl_stop is not None and means["ppo/approx_kl"] > self.kl_stop:
            return Verdict.stop
        if self.ratio_threshold is not None and means["ppo/ratio_mean"] > self.ratio_threshold:
            return Verdict.skip
        return Verdict.take

    def final(self, output: PolicyOutput, rollout: Rollout) -> dict[str, Float[Tensor, ""]]:
        """Per-token sums of some rows after the last minibatch (`uses_final`); the engine averages
        them over tokens and gives the means to `next_state`."""
        return {}

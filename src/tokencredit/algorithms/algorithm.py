"""The base of all policy algorithms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from tokencredit.algorithms.advantages import Whiten, to_go
from tokencredit.algorithms.asking import Asking
from tokencredit.algorithms.losses import Aggregation, Term, kl_old_new, log_ratio
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.procedure import Procedure
from tokencredit.algorithms.shaping import Shaped, Shaping, State
from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets

__all__ = ["Algorithm", "Decision", "Loss", "Reader", "Shaped", "State"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss to minimise, as a sum over tokens, and its parts for the log."""

    total: Float[torch.Tensor, ""]
    """Sum over the counting tokens; the engine divides by the global count (`denominator`)."""
    sums: dict[str, Float[torch.Tensor, ""]]
    """Per-token sums without gradient; the engine averages them over tokens."""


class Decision(str, Enum):
    """What becomes of a minibatch once its loss is known; the engine counts what is not taken."""

    take = "take"
    skip = "skip"
    """No optimizer step."""
    stop = "stop"
    """No optimizer step, and no further minibatches in this step."""


Change = Callable[["Float[torch.Tensor, 'B T']"], "Float[torch.Tensor, 'B T']"]
"""What an advantage scheme makes of the advantages of a whole rollout."""
Sums = Callable[[PolicyOutput, Rollout], "dict[str, Float[torch.Tensor, '']]"]
"""Sums over the tokens of some rows, by name."""
Reader = Callable[[Sums], dict[str, float]]
"""Reads a whole rollout, and gives the means over its tokens."""


@dataclass(slots=True, kw_only=True)
class Algorithm(Shaping, Procedure):
    """Turns rewards into targets and targets into a loss. Knows no devices and no optimizers."""

    ends_with: ClassVar[str] = "rl"
    rolls_out: ClassVar[bool] = True
    uses_values: ClassVar[bool] = True

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

    def reads_full(self) -> bool:
        """Whether the estimate of the penalty asks for the KL over the whole vocabulary."""
        return self.kl.reads_full

    def fill_rate(self, learning_rate: float | None) -> None:
        """Set the optimizer's learning rate, if it is null, to the model's."""
        if self.optimizer.learning_rate is None:
            self.optimizer.learning_rate = learning_rate

    def fit_to(self, steps: int) -> None:
        """Fill in the horizon of the KL coefficient; a schedule must reach the run's end."""
        self.kl.fill(steps * self.batch_size)
        horizon = self.optimizer.schedule_steps
        require(
            horizon is None or steps <= horizon,
            "steps",
            steps,
            f"exceeds algorithm.optimizer.schedule_steps = {horizon}, where the schedule ends",
        )

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer's numbers for each parameter group: "policy", and "value" if there is one.

        The numbers that belong to all groups (clipping) are those of "policy".
        """
        groups = {"policy": self.optimizer}
        return groups | {"value": self.optimizer} if self.uses_values else groups

    def initial_state(self) -> State:
        """What the algorithm knows at first; `prepared` adds what must be measured."""
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
    def estimate(self, rollout: Rollout, shaped: Shaped) -> Targets:
        """Advantages before whitening, and returns, of every token of the whole rollout."""

    def targets(self, rollout: Rollout, shaped: Shaped, change: Change | None = None) -> Targets:
        """Advantages, changed by an advantage scheme and then whitened if asked, and returns."""
        found = self.estimate(rollout, shaped)
        advantages = found.advantages if change is None else change(found.advantages)
        return replace(found, advantages=self.whiten.applied(advantages, rollout.response_mask))

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

    def denominator(self, mask: Bool[torch.Tensor, "B T"]) -> int:
        """What the summed loss of a minibatch is divided by: its tokens, or its responses."""
        return self.aggregation.units(mask)

    def decide(self, means: dict[str, float]) -> Decision:
        """What becomes of a minibatch with these means (of `Loss.sums`, over all processes)."""
        if self.kl_stop is not None and means["ppo/approx_kl"] > self.kl_stop:
            return Decision.stop
        if self.ratio_threshold is not None and means["ppo/ratio_mean"] > self.ratio_threshold:
            return Decision.skip
        return Decision.take

    def observe(self, rollout: Rollout, ask: Asking) -> Float[torch.Tensor, "B *T"] | None:
        """What is to be known beside a rollout, in units of its token rewards: `shape` gets it.

        Nothing, unless an algorithm asks for further responses; these count as
        `responses_beside`.
        """
        del rollout, ask
        return None

    def responses_beside(self) -> int:
        """How many responses `observe` has made in one step."""
        return 0

    def warmup_rollouts(self) -> int:
        """On how many rollouts the value function alone is trained before the first step."""
        return 0

    def after_update(self, read: Reader) -> dict[str, float]:
        """What is to be known of the policy after the last minibatch; `next_state` gets it, too.

        `read(f)` reads the rollout once more: the means over its tokens of the sums that `f` makes
        of the policy's output on some rows.
        """
        del read
        return {}

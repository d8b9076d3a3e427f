"""Policy optimisation with an adaptive penalty on the distance from the old policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.algorithms.actor_critic import ActorCritic
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.algorithm import Reader, State
from tokencredit.algorithms.kl import doubled_or_halved
from tokencredit.algorithms.losses import Term, kl_new_old, kl_old_new, log_ratio
from tokencredit.fields import Settings, number
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


class Direction(str, Enum):
    """Which policy the KL divergence is an expectation under."""

    new_old = "new_old"
    """KL(π ‖ π_old), as Agrawal's Algorithm 4 writes it; sampled as ρ log ρ − (ρ − 1)."""
    old_new = "old_new"
    """KL(π_old ‖ π), as Schulman et al. 2017 do; sampled as (ρ − 1) − log ρ."""

    def per_token(self, log_ratio: Float[torch.Tensor, "*S"]) -> Float[torch.Tensor, "*S"]:
        """The estimate of each token: never negative, unbiased under the old policy."""
        return kl_new_old(log_ratio) if self is Direction.new_old else kl_old_new(log_ratio)


@dataclass(slots=True, kw_only=True)
class Penalty(Settings):
    """−coef · KL between the new policy and that of the rollout, and the controller of coef."""

    section: ClassVar[str] = "algorithm.penalty"

    direction: Direction = Direction.new_old
    """new_old, or old_new."""
    coef: float = number(1.0, above=0)
    """Initial coefficient b."""
    target: float = number(0.01, above=0)
    """KL δ of a step in nats a token: b doubles at 1.5 δ and above, halves at δ / 1.5 and below."""


@dataclass(slots=True, kw_only=True)
class PPOPenalty(ActorCritic):
    """Maximises ρ A − b · KL by epochs × minibatches steps, then doubles or halves b.

    Schulman et al. 2017, section 4 (the slides' Algorithm 4). Not the penalty in the reward, which
    is `kl` and measures the distance from the reference.
    """

    whiten: Whiten = Whiten.unbiased
    """none, unbiased, or biased: advantages get mean 0 and variance 1 over the rollout's tokens."""
    penalty: Penalty = field(default_factory=Penalty)

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()

    def initial_state(self) -> State:
        """The coefficient of the KL to the reference, and b."""
        return {**ActorCritic.initial_state(self), "penalty/coef": self.penalty.coef}

    def next_state(self, state: State, measured: dict[str, float], responses: int) -> State:
        """Both coefficients; b by the KL of the whole rollout after the last minibatch."""
        after = ActorCritic.next_state(self, state, measured, responses)
        kl = measured["penalty/final_kl"]
        coef = doubled_or_halved(state["penalty/coef"], kl, self.penalty.target)
        return {**after, "penalty/coef": coef}

    def terms(
        self, output: PolicyOutput, rollout: Rollout, targets: Targets, state: State
    ) -> list[Term]:
        """−ρ A + b KL + value_coef × value loss."""
        moved = log_ratio(output, rollout)
        advantages = keep(targets.advantages, rollout.response_mask)
        kl = self.penalty.direction.per_token(moved)
        return [
            Term("ppo/policy_loss", -moved.exp() * advantages, 1.0),
            Term("penalty/kl", kl, state["penalty/coef"]),
            *self.value_terms(output, rollout, targets),
        ]

    def after_update(self, read: Reader) -> dict[str, float]:
        """The KL estimate a token, once all steps are taken."""
        return read(self.final_kl)

    def final_kl(
        self, output: PolicyOutput, rollout: Rollout
    ) -> dict[str, Float[torch.Tensor, ""]]:
        """The sum of the KL estimate over the tokens of some rows."""
        kl = self.penalty.direction.per_token(log_ratio(output, rollout).detach())
        return {"penalty/final_kl": keep(kl, rollout.response_mask).sum()}

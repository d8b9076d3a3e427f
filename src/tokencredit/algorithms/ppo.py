"""Proximal policy optimisation with a clipped ratio."""

from __future__ import annotations

from dataclasses import dataclass

from tokencredit.algorithms.actor_critic import ActorCritic
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.algorithm import State
from tokencredit.algorithms.losses import Term, log_ratio, outside_by, policy_loss
from tokencredit.fields import number
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


@dataclass(slots=True, kw_only=True)
class PPO(ActorCritic):
    """Clipped PPO with generalised advantage estimation and a clipped value loss."""

    whiten: Whiten = Whiten.unbiased
    """none, unbiased, or biased: advantages get mean 0 and variance 1 over the rollout's tokens."""
    clip: float = number(0.2, above=0, below=1)
    """The ratio is clipped to 1 ± clip."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()

    def terms(
        self, output: PolicyOutput, rollout: Rollout, targets: Targets, state: State
    ) -> list[Term]:
        """−min(ρ A, clip(ρ, 1 ± ε) A) + value_coef × value loss."""
        moved = log_ratio(output, rollout)
        advantages = keep(targets.advantages, rollout.response_mask)
        return [
            Term("ppo/policy_loss", policy_loss(moved, advantages, self.clip), 1.0),
            Term("ppo/clip_fraction", outside_by(moved.detach().expm1(), self.clip)),
            *self.value_terms(output, rollout, targets),
        ]

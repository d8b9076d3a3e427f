"""What algorithms with a value function share: advantages by GAE, and the value loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokencredit.algorithms.advantages import gae
from tokencredit.algorithms.algorithm import Algorithm, Shaped
from tokencredit.algorithms.losses import Term, outside_by, value_loss
from tokencredit.algorithms.optimizer import Optimizer, ValueOptimizer
from tokencredit.fields import added, number
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


@dataclass(slots=True, kw_only=True)
class ActorCritic(Algorithm):
    """A policy and a value function, trained together by one loss."""

    lam: float = number(0.95, at_least=0, at_most=1)
    """Trace decay of generalised advantage estimation."""
    value_clip: float | None = number(0.2, above=0, null="")
    """Values may move this far from their rollout's; null: any distance."""
    value_coef: float = number(0.1, at_least=0)
    """Weight of the value loss."""
    value_optimizer: ValueOptimizer = field(default_factory=ValueOptimizer)
    value_warmup: int = added(number(0, at_least=0))
    """Rollouts of the SFT model, each like a step's, on which the value function alone is trained
    before step 0: its own parameters move (model.value.kind; the head where it shares the policy's
    trunk), the policy's do not."""

    def check(self) -> None:
        """Raise for values out of range."""
        Algorithm.check(self)
        self.optimizers()  # together, the two may lack a horizon

    def warmup_rollouts(self) -> int:
        """Rollouts on which the value function alone is trained before the first step."""
        return self.value_warmup

    def optimizers(self) -> dict[str, Optimizer]:
        """The policy's numbers, and the value function's where it has its own."""
        return {"policy": self.optimizer, "value": self.value_optimizer.filled(self.optimizer)}

    def estimate(self, rollout: Rollout, shaped: Shaped) -> Targets:
        """Advantages and returns by generalised advantage estimation."""
        mask = rollout.response_mask
        advantages, returns = gae(
            shaped.total, rollout.values, mask, gamma=self.gamma, lam=self.lam
        )
        return Targets(advantages=advantages, returns=returns)

    def value_terms(self, output: PolicyOutput, rollout: Rollout, targets: Targets) -> list[Term]:
        """The value loss, and how many values moved farther than `value_clip`; neither where there
        are no values (model.value.kind=none)."""
        if output.values is None:
            return []
        mask = rollout.response_mask
        values, old = keep(output.values, mask), keep(rollout.values, mask)
        loss = value_loss(values, old, keep(targets.returns, mask), self.value_clip)
        terms = [Term("value/loss", loss, self.value_coef)]
        if self.value_clip is not None:
            terms.append(Term("value/clip_fraction", outside_by(values - old, self.value_clip)))
        return terms

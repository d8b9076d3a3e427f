"""What algorithms with a value function share: advantages by GAE, and the value loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokencredit.algorithms.advantages import gae
from tokencredit.algorithms.algorithm import Algorithm, Shaped
from tokencredit.algorithms.losses import Term, outside_by, value_loss
from tokencredit.algorithms.optimizer import Optimizer, ValueOptimizer
from tokencredit.errors import require
from tokencredit.fields import added
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


@dataclass(slots=True, kw_only=True)
class ActorCritic(Algorithm):
    """A policy and a value function, trained together by one loss."""

    lam: float = 0.95
    """Trace decay of generalised advantage estimation."""
    value_clip: float | None = 0.2
    """Values may move this far from their rollout's; null: any distance."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    value_optimizer: ValueOptimizer = field(default_factory=ValueOptimizer)
    value_warmup: int = added(0)
    """Rollouts of the SFT model, each like a step's, on which the value function alone is trained
    before step 0: its own parameters move (model.value.kind; the head where it shares the policy's
    trunk), the policy's do not."""

    def check(self) -> None:
        """Raise for values out of range."""
        Algorithm.check(self)
        require(0 <= self.lam <= 1, "algorithm.lam", self.lam, "must lie in [0, 1]")
        require(
            self.value_clip is None or self.value_clip > 0,
            "algorithm.value_clip",
            self.value_clip,
            "must be null or > 0",
        )
        require(self.value_coef >= 0, "algorithm.value_coef", self.value_coef, "must be >= 0")
        require(self.value_warmup >= 0, "algorithm.value_warmup", self.value_warmup, "must be >= 0")
        self.optimizers()  # together, the two may lack a horizon

    def optimizers(self) -> dict[str, Optimizer]:
        """The policy's numbers, and the value function's where it has its own."""
        return {"policy": self.optimizer, "value": self.value_optimizer.filled(self.optimizer)}

    def targets(self, rollout: Rollout, shaped: Shaped) -> Targets:
        """Advantages (whitened if asked) and returns (always before whitening)."""
        mask = rollout.response_mask
        advantages, returns = gae(
            shaped.total, rollout.values, mask, gamma=self.gamma, lam=self.lam
        )
        return Targets(advantages=self.whiten.applied(advantages, mask), returns=returns)

    def value_terms(self, output: PolicyOutput, rollout: Rollout, targets: Targets) -> list[Term]:
        """The value loss, and how many values moved farther than `value_clip`."""
        mask = rollout.response_mask
        values, old = keep(output.values, mask), keep(rollout.values, mask)
        loss = value_loss(values, old, keep(targets.returns, mask), self.value_clip)
        terms = [Term("value/loss", loss, self.value_coef)]
        if self.value_clip is not None:
            terms.append(Term("value/clip_fraction", outside_by(values - old, self.value_clip)))
        return terms

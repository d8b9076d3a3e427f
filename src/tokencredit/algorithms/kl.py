"""The KL penalty and its coefficient."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float
from torch import Tensor

from tokencredit.errors import require
from tokencredit.ops import k1, k3, keep
from tokencredit.rollout import Rollout


class Controller(str, Enum):
    """How the KL coefficient moves."""

    fixed = "fixed"
    adaptive = "adaptive"
    """Proportional control of the measured KL (Ziegler et al. 2019)."""


class Estimator(str, Enum):
    """What is subtracted from the reward of a token."""

    k1 = "k1"
    """log π − log π_ref."""
    k3 = "k3"
    """exp(d) − 1 − d with d = log π_ref − log π."""


@dataclass(slots=True, kw_only=True)
class KLPenalty:
    """A reward of −coef · KL_t on every token, and the controller of coef."""

    estimator: Estimator = Estimator.k1
    """k1 or k3."""
    coef: float = 0.2
    """Initial coefficient."""
    controller: Controller = Controller.adaptive
    """fixed, or adaptive."""
    target: float = 6.0
    """KL in nats a response that the adaptive controller steers to."""
    horizon: float = 10_000.0
    """Responses over which it corrects a full error."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.coef >= 0, "algorithm.kl.coef", self.coef, "must be >= 0 (0 turns it off)")
        require(
            self.controller is Controller.fixed or self.target > 0,
            "algorithm.kl.target",
            self.target,
            "must be > 0 nats; use algorithm.kl.controller=fixed for a constant coefficient",
        )
        require(self.horizon > 0, "algorithm.kl.horizon", self.horizon, "must be > 0 responses")

    def per_token(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """The estimate for each response token, zero where masked."""
        estimate = {Estimator.k1: k1, Estimator.k3: k3}[self.estimator]
        return keep(estimate(rollout.logp, rollout.ref_logp), rollout.response_mask)

    def next_coef(self, coef: float, kl: float, responses: int) -> float:
        """The coefficient after a rollout with mean KL `kl` over `responses` responses.

        c ← c (1 + clip(KL / target − 1, ±0.2) · n / horizon) (Ziegler et al. 2019, eq. 5).
        """
        if self.controller is Controller.fixed:
            return coef
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coef * (1 + error * responses / self.horizon)

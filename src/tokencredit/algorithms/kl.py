"""The KL penalty to the reference and its coefficient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

import torch
from jaxtyping import Float

from tokencredit.errors import UserError, require
from tokencredit.fields import Settings, number
from tokencredit.ops import k1, k3, keep
from tokencredit.rollout import Rollout


class Controller(str, Enum):
    """How the KL coefficient moves."""

    fixed = "fixed"
    adaptive = "adaptive"
    """Proportional control of the measured KL (Ziegler et al. 2019)."""
    doubling = "doubling"
    """Times 2 at 1.5 x target and above, divided by 2 at target / 1.5 and below (Schulman et al.
    2017, section 4, there for the KL to the old policy)."""


class Estimator(str, Enum):
    """What stands for the KL divergence of one token; d = log π − log π_ref of the sampled one."""

    k1 = "k1"
    """d: unbiased under π, of either sign."""
    k3 = "k3"
    """exp(−d) − 1 + d: unbiased under π, never negative."""
    abs = "abs"
    """|d|."""
    mse = "mse"
    """½ d², which others call k2; near the reference its mean is close to the KL divergence."""
    full = "full"
    """Σ_v π(v) (log π(v) − log π_ref(v)) over the whole vocabulary: no estimate but the number."""


ESTIMATES: Final[dict[Estimator, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    Estimator.k1: k1,
    Estimator.k3: k3,
    Estimator.abs: lambda logp, ref_logp: k1(logp, ref_logp).abs(),
    Estimator.mse: lambda logp, ref_logp: 0.5 * k1(logp, ref_logp).square(),
}


@dataclass(slots=True, kw_only=True)
class KLPenalty(Settings):
    """A reward of −coef · KL_t on every token, and the controller of coef."""

    section: ClassVar[str] = "algorithm.kl"

    estimator: Estimator = Estimator.k1
    """k1, k3, abs, mse, or full."""
    coef: float = number(0.2, at_least=0, note="(0 turns it off)")
    """Initial coefficient."""
    controller: Controller = Controller.adaptive
    """fixed, adaptive, or doubling."""
    target: float = 6.0
    """KL in nats a response (kl/k1) that the other two steer to."""
    horizon: float | None = number(
        10_000.0, above=0, note="responses, or null for those of the whole run"
    )
    """Responses over which adaptive corrects a full error; null: those of the whole run, steps ×
    algorithm.batch_size (a run that gets more steps is then another one)."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Settings.__post_init__(self)
        require(
            self.controller is Controller.fixed or self.target > 0,
            "algorithm.kl.target",
            self.target,
            "must be > 0 nats; use algorithm.kl.controller=fixed for a constant coefficient",
        )

    def fill(self, responses: int) -> None:
        """Set a horizon that is null, to the number of responses of the run."""
        self.horizon = float(responses) if self.horizon is None else self.horizon

    @property
    def reads_full(self) -> bool:
        """Whether `Rollout.full_kl` must be there."""
        return self.estimator is Estimator.full

    def per_token(self, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """The estimate for each response token, zero where masked."""
        if not self.reads_full:
            found = ESTIMATES[self.estimator](rollout.logp, rollout.ref_logp)
        elif rollout.full_kl is None:
            raise UserError(
                "algorithm.kl.estimator = 'full': this rollout has no KL over the whole "
                "vocabulary; use k1, k3, abs, or mse"
            )
        else:
            found = rollout.full_kl
        return keep(found, rollout.response_mask)

    def next_coef(self, coef: float, kl: float, responses: int) -> float:
        """The coefficient after a rollout with mean KL `kl` over `responses` responses.

        adaptive: c ← c (1 + clip(KL / target − 1, ±0.2) · n / horizon) (Ziegler et al. 2019).
        """
        if self.controller is Controller.fixed:
            return coef
        if self.controller is Controller.doubling:
            return doubled_or_halved(coef, kl, self.target)
        assert self.horizon is not None, "filled in when the configuration is loaded"
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coef * (1 + error * responses / self.horizon)


def doubled_or_halved(coef: float, kl: float, target: float) -> float:
    """2c where kl ≥ 1.5 target, c / 2 where kl ≤ target / 1.5, else c; both bounds inclusive."""
    if kl >= 1.5 * target:
        return 2 * coef
    return coef / 2 if kl <= target / 1.5 else coef

"""Effects of tokens on the preference as rewards (DAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.fields import number
from tokencredit.ops import keep
from tokencredit.rewards.attribution import sides
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout


@dataclass(slots=True, kw_only=True)
class DAE(RewardScheme):
    """r_t = scale × Â_t, the judge's advantage of token t in the game that two answers play
    (Estimating Effects of Tokens in Preference Learning, Eq. 10).

    Σ_t Â_t is the expected outcome, from −1 to 1, against an answer of the frozen policy, so with
    scale 1 the policy is paid for winning. Â_t depends on no later token. As advantages rather than
    rewards: advantage_scheme=own.
    """

    evidence: ClassVar[Evidence] = Evidence.signed

    scale: float = number(1.0, above=0)
    """What winning against the frozen policy is worth."""

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The advantages, scaled."""
        return self.scale * keep(judgement.evidence, rollout.response_mask)

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """The expected outcome against the frozen policy, and the share of negative effects."""
        effects = keep(judgement.evidence, rollout.response_mask).double()
        good, bad = (side.sum() for side in sides(effects))
        share = bad / (good + bad).clamp(min=torch.finfo(torch.double).tiny)
        return {
            "dae/outcome": float(effects.sum(dim=1).mean()),
            "dae/negative_share": float(share),
        }

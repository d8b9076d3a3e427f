"""Signed attributions as rewards: tokens that raised the score earn, tokens that lowered it pay."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float, Float64

from tokencredit.ops import keep
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout

NEGLIGIBLE: Final = 1e-3
"""A sign that holds less than this share of Σ|a| is rounding, and cannot carry a score."""


class Total(str, Enum):
    """What the rewards of a response sum to."""

    sum_preserving = "sum_preserving"
    """Its score; no reward has another sign than its attribution, where that is possible."""
    raw = "raw"
    """What the attributions sum to: they are paid as they are."""


@dataclass(slots=True, kw_only=True)
class Attribution(RewardScheme):
    """r_t = a_t e^(λ sign a_t), with λ such that Σ_t r_t = R; or a_t itself (Chan et al. 2024, §6).

    With P = Σ max(a, 0), N = Σ max(−a, 0), and D = √(R² + 4PN), the positive attributions are
    scaled to sum to (D + R) / 2, the negative ones to (D − R) / 2. Of all rewards with the signs of
    a that sum to R these are the nearest to a in relative entropy, and Σ|r| ≤ |R| + Σ|a|: unlike
    a_t R / Σa, which has no bound and no sign of its own where Σa ≈ 0. Where no token has the sign
    of R, signs cannot be kept, and r_t = a_t + (R − Σa) / n.
    """

    evidence: ClassVar[Evidence] = Evidence.signed

    normalise: Total = Total.sum_preserving
    """sum_preserving, or raw: the attributions as they are, in the units of the reward model, to
    which `algorithm.normalise` and `algorithm.score_clip` do nothing."""

    def preserves_sum(self) -> bool:
        """Unless attributions are paid raw."""
        return self.normalise is Total.sum_preserving

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The attributions, tilted towards the score or as they are."""
        mask = rollout.response_mask
        if self.normalise is Total.raw:
            return keep(judgement.evidence, mask)
        attributions, scores = keep(judgement.evidence, mask).double(), judgement.scores.double()
        kept = can_keep_signs(attributions, scores)[:, None]
        paid = torch.where(kept, tilted(attributions, scores), shifted(attributions, scores, mask))
        return keep(paid, mask).to(judgement.evidence.dtype)

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """How much of the attributions is negative, and where signs could not be kept."""
        attributions = keep(judgement.evidence, rollout.response_mask).double()
        good, bad = sides(attributions)
        share = bad / (good + bad).clamp(min=torch.finfo(torch.double).tiny)
        found = {"attribution/negative_share": float(share.mean())}
        if self.normalise is Total.sum_preserving:
            kept = can_keep_signs(attributions, judgement.scores.double())
            found["attribution/fallbacks"] = float((~kept).sum())
        return found


def sides(
    attributions: Float64[torch.Tensor, "B T"],
) -> tuple[Float64[torch.Tensor, "B"], Float64[torch.Tensor, "B"]]:
    """P and N: the sums of positive and of negative attributions, both without a sign."""
    return attributions.clamp(min=0).sum(dim=1), (-attributions).clamp(min=0).sum(dim=1)


def can_keep_signs(
    attributions: Float64[torch.Tensor, "B T"], scores: Float64[torch.Tensor, "B"]
) -> Bool[torch.Tensor, "B"]:
    """Whether attributions of the score's sign are there to carry it; a score of 0 needs none."""
    good, bad = sides(attributions)
    carrying = torch.where(scores > 0, good, bad)
    return (scores == 0) | (carrying > NEGLIGIBLE * (good + bad))


def tilted(
    attributions: Float64[torch.Tensor, "B T"], scores: Float64[torch.Tensor, "B"]
) -> Float64[torch.Tensor, "B T"]:
    """a_t e^(λ sign a_t), whose rows sum to the scores."""
    good, bad = sides(attributions)
    root = (scores.square() + 4 * good * bad).sqrt()
    tiny = torch.finfo(torch.double).tiny
    up = (root + scores) / 2 / good.clamp(min=tiny)
    down = (root - scores) / 2 / bad.clamp(min=tiny)
    return torch.where(attributions > 0, attributions * up[:, None], attributions * down[:, None])


def shifted(
    attributions: Float64[torch.Tensor, "B T"],
    scores: Float64[torch.Tensor, "B"],
    mask: Bool[torch.Tensor, "B T"],
) -> Float64[torch.Tensor, "B T"]:
    """a_t + (R − Σa) / n: what is missing in equal parts."""
    missing = (scores - attributions.sum(dim=1)) / mask.sum(dim=1).clamp(min=1)
    return attributions + missing[:, None]

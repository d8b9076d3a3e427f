"""The score spread over its tokens by evidence: attention-based credit and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from tokencredit.fields import number
from tokencredit.ops import keep, last_token, masked_sum
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout

EPS = 1e-8


def shares(
    evidence: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """Evidence as weights that sum to 1 in every non-empty row; equal ones where it vanishes."""
    weights = keep(evidence, mask).clamp(min=0)
    total = weights.sum(dim=1, keepdim=True)
    equal = keep(1.0 / mask.sum(dim=1, keepdim=True).clamp(min=1).expand(mask.shape), mask)
    return torch.where(total < EPS, equal, weights / total.clamp(min=EPS))


def vanishes(
    evidence: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Bool[torch.Tensor, "B"]:
    """Which rows have no evidence to speak of, so that their shares are equal."""
    return masked_sum(evidence.clamp(min=0), mask) < EPS


@dataclass(slots=True, kw_only=True)
class Redistribute(RewardScheme):
    """r_t = β α_t R + (1 − β) R [t last], with α the normalised evidence (Chan et al. 2024, eq. 3).

    The rewards of a response sum to its score for every β; only the return's timing changes. A
    response of one token has the share 1, whatever the evidence; one whose evidence vanishes has
    equal shares. Both are counted in the metrics.
    """

    evidence: ClassVar[Evidence] = Evidence.nonnegative
    sum_preserving: ClassVar[bool] = True

    beta: float = number(0.8, at_least=0, at_most=1)
    """Share of the score that is redistributed; the rest stays on the last token. 0 is sparse."""

    def spread_by(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """What the score is spread by: the judge's evidence, here as it is."""
        del rollout
        return judgement.evidence

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The blend of redistributed and terminal reward."""
        mask = rollout.response_mask
        dense = shares(self.spread_by(rollout, judgement), mask)
        sparse = last_token(mask).to(dense.dtype)
        weights = self.beta * dense + (1 - self.beta) * sparse
        return keep(judgement.scores[:, None] * weights, mask)

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """How many responses have their shares from elsewhere than the evidence."""
        mask, length = rollout.response_mask, rollout.lengths
        equal = vanishes(self.spread_by(rollout, judgement), mask) & (length > 1)
        return {
            "credit/fallback_fraction": float(equal.double().mean()),
            "credit/single_fraction": float((length == 1).double().mean()),
        }

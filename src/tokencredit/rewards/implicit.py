"""Rewards from the log-ratios ρ_t = log π_dpo − log π_ref of a DPO model (Zhong et al. 2024).

The other term of the paper's rewards, −β2 (log π − log π_ref), is the algorithm's KL penalty: β2 is
`algorithm.kl.coef`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float

from tokencredit.fields import number
from tokencredit.ops import keep, last_token, masked_sum
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout


@dataclass(slots=True, kw_only=True)
class Implicit(RewardScheme):
    """What these schemes share: β1 ρ placed on tokens, clipped there, and the score at the end."""

    evidence: ClassVar[Evidence] = Evidence.signed

    scale: float = 0.1
    """β1, the factor of the log-ratios; 0 turns them off, a negative one reverses them."""
    clip: float | None = number(None, above=0, null="")
    """What the log-ratios pay to one token is clipped to ± this; null: never."""
    zero_is_one: bool = False
    """A scale of 0 or less counts as 1, as in the authors' released code."""

    @abstractmethod
    def placed(
        self, ratios: Float[torch.Tensor, "B T"], rollout: Rollout, judgement: Judgement
    ) -> Float[torch.Tensor, "B T"]:
        """The log-ratios, zero where masked, where they are to be paid; a response's sum stays."""

    def at_end(
        self, paid: Float[torch.Tensor, "B T"], judgement: Judgement
    ) -> Float[torch.Tensor, "B"] | None:
        """What the last token gets besides; None: nothing."""
        return None

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """β1 ρ where it is due, clipped, and what the last token gets besides."""
        paid = self._clipped(self._unclipped(rollout, judgement))
        extra = self.at_end(paid, judgement)
        if extra is None:
            return paid
        last = last_token(rollout.response_mask)
        return torch.where(last, paid + extra[:, None].to(paid.dtype), paid)

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """The share of paid tokens that were clipped, and what a response lost by it in the mean.

        Clipping is what makes schemes with the same log-ratios differ in the sum they pay.
        """
        whole = self._unclipped(rollout, judgement)
        lost = whole - self._clipped(whole)
        count = (lost != 0).sum() / (whole != 0).sum().clamp(min=1)
        return {
            "credit/clipped_fraction": float(count),
            "credit/clipped_sum": float(masked_sum(lost, rollout.response_mask).double().mean()),
        }

    def _unclipped(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        ratios = keep(judgement.evidence, rollout.response_mask)
        factor = 1.0 if self.zero_is_one and self.scale <= 0 else self.scale
        return factor * self.placed(ratios, rollout, judgement)

    def _clipped(self, paid: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B T"]:
        return paid if self.clip is None else paid.clamp(-self.clip, self.clip)


@dataclass(slots=True, kw_only=True)
class ImplicitScored(Implicit):
    """β1 ρ per token, with β3 times the scorer's score on the last token."""

    score: float = 0.0
    """β3, the factor of the score; 0: log-ratios alone."""
    score_clip: float | None = number(None, above=0, null="")
    """The score is clipped to ± this before; null: never."""

    def at_end(
        self, paid: Float[torch.Tensor, "B T"], judgement: Judgement
    ) -> Float[torch.Tensor, "B"] | None:
        """β3 R."""
        if self.score == 0:
            return None
        limit = self.score_clip
        scores = judgement.scores if limit is None else judgement.scores.clamp(-limit, limit)
        return self.score * scores


@dataclass(slots=True, kw_only=True)
class RTO(ImplicitScored):
    """r_t = β1 ρ_t + β3 R [t last]: every token is paid its own log-ratio (eq. 4.6).

    Without a score it is the first version's reward, with β3 = 1 the later ones' (eq. 4.7 there).
    """

    def placed(
        self, ratios: Float[torch.Tensor, "B T"], rollout: Rollout, judgement: Judgement
    ) -> Float[torch.Tensor, "B T"]:
        """Each where it is."""
        return ratios


@dataclass(slots=True, kw_only=True)
class DPPO(ImplicitScored):
    """r_t = (β1 Σ_u ρ_u + β3 R) [t last]: RTO's sum, paid at the end (eq. 5.1)."""

    def placed(
        self, ratios: Float[torch.Tensor, "B T"], rollout: Rollout, judgement: Judgement
    ) -> Float[torch.Tensor, "B T"]:
        """Their sum on the last token."""
        return keep(
            ratios.sum(dim=1, keepdim=True).expand_as(ratios), last_token(rollout.response_mask)
        )


@dataclass(slots=True, kw_only=True)
class SemiRTO(ImplicitScored):
    """RTO with the log-ratios of a sentence paid together, on the token that ends it.

    A response's last token ends its last sentence. Needs a judge that knows where sentences end.
    """

    reads_ends: ClassVar[bool] = True

    def placed(
        self, ratios: Float[torch.Tensor, "B T"], rollout: Rollout, judgement: Judgement
    ) -> Float[torch.Tensor, "B T"]:
        """The sum of each sentence on its end."""
        ends = last_token(rollout.response_mask)
        if judgement.ends is not None:
            ends = ends | (judgement.ends & rollout.response_mask)
        return paid_at_ends(ratios, ends)


def paid_at_ends(
    values: Float[torch.Tensor, "B T"], ends: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """On each end, the sum of the values from behind the end before it up to itself; else zero."""
    number = ends.long().cumsum(dim=1) - ends.long()  # ends that lie before
    sums = torch.zeros_like(values).scatter_add(1, number.clamp(max=values.shape[1] - 1), values)
    return keep(sums.gather(1, number.clamp(max=values.shape[1] - 1)), ends)


@dataclass(slots=True, kw_only=True)
class RTOShaped(Implicit):
    """r_t = β1 ρ_t before the last token, which gets what is missing to the score.

    The total is the score, as with a sparse reward, so the log-ratios only shape it (RS-PPO).
    """

    sum_preserving: ClassVar[bool] = True

    def placed(
        self, ratios: Float[torch.Tensor, "B T"], rollout: Rollout, judgement: Judgement
    ) -> Float[torch.Tensor, "B T"]:
        """Each where it is, but for the last one."""
        return keep(ratios, rollout.response_mask & ~last_token(rollout.response_mask))

    def at_end(
        self, paid: Float[torch.Tensor, "B T"], judgement: Judgement
    ) -> Float[torch.Tensor, "B"]:
        """R − what was paid."""
        return judgement.scores - paid.sum(dim=1)


IMPLICIT: Final = (RTO, DPPO, SemiRTO, RTOShaped)

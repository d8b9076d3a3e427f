"""Continuous token rewards from a discriminator of edits (Yoon et al. 2024, TLCR).

The judge's evidence is read as log-odds ℓ_t that token t is one a reviser would put in, against one
it would take out: D_t = σ(ℓ_t).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float

from tokencredit.fields import number
from tokencredit.ops import keep, last_token
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout


class Signs(str, Enum):
    """Which rewards are paid."""

    both = "both"
    """All."""
    negative = "negative"
    """Those below 0 alone, min(r, 0): the ablation without positive rewards."""
    positive = "positive"
    """Those above 0 alone, max(r, 0): the ablation without negative rewards."""


class ThresholdOn(str, Enum):
    """What a threshold of confidence is compared with."""

    probability = "probability"
    """max(D, 1 − D)."""
    second_softmax = "second_softmax"
    """max(σ(2D − 1), σ(1 − 2D)), D put through a softmax again, as in the authors' released code:
    0.6 of it is 0.703 of D."""
    nothing = "nothing"
    """Nothing: no token is neutral."""


@dataclass(slots=True, kw_only=True)
class TokenProbability(RewardScheme):
    """What these schemes share: which tokens are paid by their own D, and where that is paid.

    The end token gets 0: the discriminator has not learnt to judge it.
    """

    evidence: ClassVar[Evidence] = Evidence.signed

    signs: Signs = Signs.both
    """both, negative, or positive."""
    reward_shift: int = number(0, at_least=0, at_most=1, note="tokens")
    """1: what a token earns is paid to the one behind it, as in the authors' released code; the
    first gets 0."""
    skip_last: bool = False
    """The last token of a response without end token earns nothing either, as in the authors'
    released code."""

    @abstractmethod
    def earned(self, log_odds: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B T"]:
        """What each token earns, by its log-odds alone: a number in [−1, 1]."""

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """What each token has earned, where it is due."""
        mask = rollout.response_mask
        judged = mask & ~self._unpaid(rollout)
        paid = keep(self.earned(keep(judgement.evidence, judged)), judged)
        if self.signs is not Signs.both:
            paid = paid.clamp(max=0) if self.signs is Signs.negative else paid.clamp(min=0)
        if self.reward_shift:
            paid = torch.nn.functional.pad(paid, (1, 0))[:, :-1]
        return keep(paid, mask)

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """Shares of the judged tokens that earn more than 0, and less."""
        judged = rollout.response_mask & ~self._unpaid(rollout)
        earned = keep(self.earned(keep(judgement.evidence, judged)), judged)
        count = judged.sum().clamp(min=1)
        return {
            "tlcr/positive_fraction": float((earned > 0).sum() / count),
            "tlcr/negative_fraction": float((earned < 0).sum() / count),
        }

    def _unpaid(self, rollout: Rollout) -> Bool[torch.Tensor, "B T"]:
        """True at end tokens, or at every last token."""
        return last_token(rollout.response_mask) if self.skip_last else end_tokens(rollout)


@dataclass(slots=True, kw_only=True)
class TLCR(TokenProbability):
    """r_t = 2 D_t − 1: how sure the discriminator is that a token is good rather than bad."""

    softmax_twice: bool = False
    """r_t = 2σ(2 D_t − 1) − 1, at most 0.462, as in the authors' released code, which takes D for a
    logit."""

    def earned(self, log_odds: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B T"]:
        """tanh(ℓ / 2), which is 2σ(ℓ) − 1; through a second softmax tanh of half of that."""
        reward = torch.tanh(log_odds / 2)
        return torch.tanh(reward / 2) if self.softmax_twice else reward


@dataclass(slots=True, kw_only=True)
class TLCRFixed(TokenProbability):
    """r_t = +1 or −1, by the class that D_t makes likelier; 0 where it is not sure enough."""

    threshold: float = number(0.6, at_least=0.5, below=1)
    """A token is neutral where max(D, 1 − D), or what `threshold_on` names, is smaller."""
    threshold_on: ThresholdOn = ThresholdOn.probability
    """probability, second_softmax, or nothing."""

    def earned(self, log_odds: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B T"]:
        """The sign of ℓ where its token is not neutral.

        A probability p of the likelier class has the log-odds log(p / (1 − p)), so the comparison
        is one of log-odds: of ℓ, or of 2D − 1 = tanh(ℓ / 2) where a softmax takes D for a logit.
        """
        if self.threshold_on is ThresholdOn.nothing:
            return log_odds.sign()
        once = self.threshold_on is ThresholdOn.probability
        sure = log_odds if once else torch.tanh(log_odds / 2)
        least = math.log(self.threshold / (1 - self.threshold))
        return keep(log_odds.sign(), sure.abs() >= least)


def end_tokens(rollout: Rollout) -> Bool[torch.Tensor, "B T"]:
    """True at the end token of each response that has one; a stop string is none."""
    ended = rollout.finished & ~rollout.stopped
    return last_token(rollout.response_mask) & ended[:, None]


TLCR_SCHEMES: Final = (TLCR, TLCRFixed)
"""Token rewards of a discriminator."""

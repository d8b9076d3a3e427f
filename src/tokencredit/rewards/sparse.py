"""The whole score on the last token: the baseline that papers call RLHF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.ops import keep, last_token
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rollout import Judgement, Rollout


@dataclass(slots=True, kw_only=True)
class Sparse(RewardScheme):
    """r_t = R for the last token, else 0."""

    sum_preserving: ClassVar[bool] = True

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The score on the last token of each response."""
        scores = judgement.scores[:, None].expand(rollout.response_mask.shape)
        return keep(scores, last_token(rollout.response_mask))

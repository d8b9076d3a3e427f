"""The score in equal parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.ops import keep
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rollout import Judgement, Rollout


@dataclass(slots=True, kw_only=True)
class Uniform(RewardScheme):
    """r_t = R / n for each of the n response tokens (Chan et al. 2024, the uniform baseline)."""

    sum_preserving: ClassVar[bool] = True

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """An equal share of the score on every token of each response."""
        mask = rollout.response_mask
        shares = judgement.scores / mask.sum(dim=1).clamp(min=1)
        return keep(shares[:, None].expand(mask.shape), mask)

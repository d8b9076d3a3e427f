"""The base of all reward schemes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.fields import Settings
from tokencredit.rollout import Judgement, Rollout


class Evidence(str, Enum):
    """What the numbers of a judge mean."""

    none = "none"
    """The judge says nothing of single tokens."""
    nonnegative = "nonnegative"
    """Weights, to be normalised."""
    signed = "signed"
    """Rewards of their own: good above zero, bad below."""


@dataclass(slots=True, kw_only=True)
class RewardScheme(Settings, ABC):
    """Decides which tokens earned the score. Pure: same inputs, same rewards, no gradient."""

    section: ClassVar[str] = "reward_scheme"
    evidence: ClassVar[Evidence] = Evidence.none
    """The kind of evidence the scheme reads; `none` fits every judge."""
    sum_preserving: ClassVar[bool] = False
    """Whether the rewards of a response always sum to its score, unless `preserves_sum` says
    otherwise."""
    reads_ends: ClassVar[bool] = False
    """Whether the scheme reads where sentences end, so that a judge that says so is needed."""

    def preserves_sum(self) -> bool:
        """Whether the rewards of a response always sum to its score."""
        return self.sum_preserving

    def check(self) -> None:
        """Raise for what can be known to be wrong before any work is done."""
        return

    @abstractmethod
    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """One reward per response token; zero where `rollout.response_mask` is False."""

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """What the scheme wants logged of a batch, by metric name."""
        return {}

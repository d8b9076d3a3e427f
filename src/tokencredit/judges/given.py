"""What a judge is handed when it is opened: all of a run that it may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from tokencredit.models.loading.model import Model
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.rewards.scheme import RewardScheme

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Live(Protocol):
    """What a judge may see of the live models of a run."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What responses are written in."""

    @property
    def policy(self) -> torch.nn.Module:
        """The policy that is being trained (`models.policy.PolicyWithValue`), at the time of a
        call; to be read without gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The artifacts that a judge has asked for, and the settings that they are read by."""

    folder: Callable[[str], Path]
    """The folder of an artifact, by the role that `Judge.artifacts` gives it; raises `UserError`
    for one that has not been made."""
    model: Model
    """How models are read: number format, context, vocabulary of the reward model."""
    device: str
    """Where they are put."""
    score_at: ScoreAt
    """Where the reward model's score is read."""
    beta: float
    """β, by which the DPO model was held to what it started from."""
    scheme: RewardScheme | None
    """What reads the judge's evidence; None for a scorer, of which only scores are read."""
    seconds: float | None
    """How long a call of the user's code may take; None: as long as it likes."""
    column_names: Callable[[], Sequence[str]]
    """The names of the data's columns."""
    columns: Callable[[Sequence[str]], Mapping[str, Sequence[object]]]
    """The values of some columns; `Rollout.rows` are the places in them."""

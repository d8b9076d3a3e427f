"""What is known of answers from people or a large model, whoever has asked them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Benchmark(str, Enum):
    """How opinions were asked for, and in whose files they stand."""

    mt_bench = "mt_bench"
    """Grades of the first turn, the second, and all, in FastChat's judgements."""
    alpaca_eval = "alpaca_eval"
    """Per cent of prompts that one method wins against each other one, in AlpacaEval's
    annotations."""
    votes = "votes"
    """Per cent of votes as the most preferred, in a key and its annotators' sheets."""

    @property
    def of(self) -> str:
        """What is counted."""
        return {"mt_bench": "grades", "alpaca_eval": "prompts", "votes": "samples"}[self.value]


@dataclass(frozen=True, slots=True)
class Opinion:
    """One number with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Grades, prompts, or samples."""


Opinions = Mapping[str, Sequence[Opinion | None]]
"""By method, one for each column of a table."""

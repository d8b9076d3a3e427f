"""Medians, paired ratios, and an interval that assumes nothing of how times are distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Rounds = Sequence[dict[str, Any] | None]


@dataclass(frozen=True)
class Spread:
    """Median, least, and greatest of some numbers."""

    median: float
    low: float
    high: float
    count: int

    def plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    def text(self, digits: int = 2) -> str:
        """`median (low–high)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def spread(numbers: Sequence[float]) -> Spread | None:
    """Of no numbers there is none."""
    if not numbers:
        return None
    return Spread(median(numbers), min(numbers), max(numbers), len(numbers))


def column(rounds: Rounds, name: str) -> list[float]:
    """One measured number over the rounds in which there is one."""
    return [row[name] for row in rounds if row is not None and row[name] is not None]


def paired(above: Rounds, below: Rounds, name: str = "whole") -> list[float]:
    """The quotient of each round that both programs ended."""
    pairs = zip(above, below, strict=True)
    return [a[name] / b[name] for a, b in pairs if a is not None and b is not None]


def memory_over_idle(rounds: Rounds) -> float | None:
    """Peak resident memory above the idle process, in MB, over all rounds."""
    grown = [row["peak_rss_mb"] - row["idle_rss_mb"] for row in rounds if row is not None]
    return max(grown, default=None)


def median_interval(numbers: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """An interval that holds the true median with probability `level` or more (sign test).

    Its ends are the k-th smallest and the k-th largest number, k from the binomial distribution.
    Raises `ValueError` where there are too few numbers for the level (fewer than 6 for 95 %).
    """
    ordered, count = sorted(numbers), len(numbers)
    k, outside = 0, 0.0
    while k < count:
        outside += 2 * math.comb(count, k) / 2**count
        if outside > 1 - level:
            break
        k += 1
    if k == 0:
        raise ValueError(f"{count} numbers are too few for an interval of {level:.0%}")
    return ordered[k - 1], ordered[count - k]

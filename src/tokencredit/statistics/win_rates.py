"""Win rates: the share of prompts won, a draw half a win. Arithmetic on plain numbers.

Two uncertainties are kept apart. Over prompts: would other prompts say the same of these models?
Over seeds: would models trained again say the same? `crossed` has both at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from tokencredit.statistics.crossed import Crossed, crossed
from tokencredit.statistics.intervals import Interval, mean_ci, wilson

Seed = int | None
"""Of a training run; None: one model for all seeds of the other methods."""
Shares = Float64[np.ndarray, "N"]
"""For each prompt how much of a win it is: 1 won, ½ drawn, 0 lost."""


@dataclass(frozen=True, slots=True)
class WinRate:
    """Mean share over prompts, its standard error, and what it is made of."""

    mean: float
    se: float
    """Standard error of the mean (ddof 1); 0 for one prompt, whose spread is unknown."""
    low: float
    high: float
    """95 % Wilson interval."""
    n: int
    wins: int
    draws: int
    losses: int

    def percent(self) -> str:
        """Win rate and standard error in AlpacaEval's words, with four decimals."""
        return f"{100 * self.mean:.4f} ± {100 * self.se:.4f}"


def win_rate(shares: Sequence[float] | Shares) -> WinRate:
    """The win rate of shares in [0, 1]; more than ½ is a win.

    Raises ValueError without shares, or for one outside [0, 1].
    """
    array = np.asarray(shares, dtype=np.float64)
    if array.size and not ((array >= 0) & (array <= 1)).all():
        raise ValueError("shares must lie in [0, 1]")
    found = mean_ci(array.tolist())
    low, high = wilson(found.mean, found.n)
    wins, losses = int((array > 0.5).sum()), int((array < 0.5).sum())
    return WinRate(found.mean, found.se, low, high, found.n, wins, found.n - wins - losses, losses)


def shares(own: Sequence[float], other: Sequence[float]) -> Shares:
    """Prompt by prompt, whether the first score is higher: 1, ½ where they are equal, 0.

    Raises ValueError for unequal lengths and for scores that are not finite.
    """
    first, second = np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"{first.size} and {second.size} scores: each prompt needs one of both")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("scores must be finite")
    return (1 + np.sign(first - second)) / 2


@dataclass(frozen=True, slots=True)
class Against:
    """One method against another."""

    rate: WinRate
    """Over prompts; with several seeds, of each prompt's mean share."""
    seeds: Interval | None
    """Over pairs of runs, Student's t; None with a single pair."""
    both: Crossed | None = None
    """Over pairs of runs crossed with prompts; None with a single pair or prompt."""

    def mirrored(self) -> Against:
        """The comparison from the other side: wins and losses exchanged."""
        rate, seeds = self.rate, self.seeds
        turned = WinRate(
            1 - rate.mean,
            rate.se,
            1 - rate.high,
            1 - rate.low,
            rate.n,
            rate.losses,
            rate.draws,
            rate.wins,
        )
        if seeds is None:
            return Against(turned, None)
        other = Interval(1 - seeds.mean, 1 - seeds.high, 1 - seeds.low, seeds.se, seeds.n)
        both = None if self.both is None else self.both.mirrored()
        return Against(turned, other, both)


@dataclass(frozen=True, slots=True)
class WinMatrix:
    """Methods against methods; `cells[a, b]` and `cells[b, a]` mirror each other, or neither is."""

    names: tuple[str, ...]
    cells: Mapping[tuple[str, str], Against]
    runs: Mapping[str, int]
    """How many seeds each method has."""

    def rate(self, row: str, column: str) -> float:
        """The share of prompts that `row` wins against `column`; ½ against itself."""
        return 0.5 if row == column else self.cells[row, column].rate.mean

    def wins(self) -> Float64[np.ndarray, "K K"]:
        """Prompts that the row's method won against the column's, a draw half."""
        counts = np.zeros((len(self.names), len(self.names)))
        for i, row in enumerate(self.names):
            for j, column in enumerate(self.names):
                if i != j:
                    counts[i, j] = self.rate(row, column) * self.cells[row, column].rate.n
        return counts


def pairings(first: Collection[Seed], second: Collection[Seed]) -> list[tuple[Seed, Seed]]:
    """Which runs of two methods meet: those of one seed.

    A model without seed meets every run of the other method; two single runs meet whatever their
    seeds are. Empty where none meet.
    """
    if None in first or None in second:
        return [(a, b) for a in first for b in second]
    common = sorted(seed for seed in set(first) & set(second) if seed is not None)
    if not common and len(first) == len(second) == 1:
        return [(next(iter(first)), next(iter(second)))]
    return [(seed, seed) for seed in common]


def against(verdicts: Sequence[Sequence[float] | Shares]) -> Against:
    """One method against another from the shares of each pair of runs over the same prompts."""
    table = np.asarray(verdicts, dtype=np.float64)
    mean = table.mean(axis=0)
    seeds = mean_ci(table.mean(axis=1).tolist()) if len(table) > 1 else None
    both = crossed(table) if min(table.shape) > 1 else None
    return Against(win_rate(mean), seeds, both)


def win_matrix(scores: Mapping[str, Mapping[Seed, Sequence[float]]]) -> WinMatrix:
    """All win rates from scores[method][seed][prompt]; methods without runs that meet have no cell.

    Raises ValueError where prompts cannot be paired.
    """
    names = tuple(scores)
    cells: dict[tuple[str, str], Against] = {}
    for i, row in enumerate(names):
        for column in names[i + 1 :]:
            own, other = scores[row], scores[column]
            met = pairings(own, other)
            if met:
                cells[row, column] = against([shares(own[a], other[b]) for a, b in met])
                cells[column, row] = cells[row, column].mirrored()
    return WinMatrix(names, cells, {name: len(scores[name]) for name in names})


def left_out(runs: Mapping[str, Collection[Seed]]) -> list[str]:
    """Runs that some other method has no counterpart of, in words."""
    return [
        f"{name}, seed {seed}: {other} has no such seed, so the two do not meet"
        for name, own in runs.items()
        for other, theirs in runs.items()
        for seed in own
        if name != other
        and None not in theirs
        and seed is not None
        and seed not in theirs
        and not len(own) == len(theirs) == 1
    ]


def prompts_for(half_width: float, level: float = 0.95) -> int:
    """How many prompts a 50 % win rate needs for an interval of ± `half_width`."""
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    return math.ceil((z / (2 * half_width)) ** 2)

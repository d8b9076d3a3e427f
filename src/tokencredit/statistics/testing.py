"""Tests of differences between two groups of runs: their p-values, power, and many of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

from tokencredit.statistics.intervals import Interval, mean_ci, paired_difference

ALPHA: Final = 0.05
"""Level of every test, two-sided."""
POWER: Final = 0.8
"""Chance to decide that an experiment is planned for."""
MOST_SEEDS: Final = 100_000
"""Beyond this `seeds_for` says that no number of seeds will do."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of one group of runs minus that of another, tested by Student's t."""

    interval: Interval
    """95 % t interval; its n is the number of pairs, or of the smaller group."""
    p: float
    """Two-sided."""
    degrees: float
    """Degrees of freedom; Welch's where the groups are not paired."""
    paired: bool
    correlation: float | None
    """Over the runs that both groups have; None for fewer than three, or without a spread."""
    sd: float
    """What `seeds_for` wants: of differences of pairs, else the root mean square of both sds."""

    @property
    def decided(self) -> int:
        """1 or -1, the side of zero on which the whole interval lies; 0 where it holds zero."""
        return (self.interval.low > 0) - (self.interval.high < 0)

    def seeds(self) -> int | None:
        """How many seeds would decide a difference as large as this one; see `seeds_for`."""
        return seeds_for(abs(self.interval.mean), self.sd, paired=self.paired)


def welch(a: Sequence[float], b: Sequence[float], level: float = 1 - ALPHA) -> Difference:
    """Welch's t-test of mean(a) − mean(b), for independent groups of unequal spread (Welch 1947).

    Degrees of freedom are those of Welch and Satterthwaite. Without any spread the interval is the
    difference itself, and p is 0, or 1 where that is zero. Raises ValueError for a group of fewer
    than two values.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"{len(a)} and {len(b)} values: two of each are needed")
    x, y = mean_ci(a), mean_ci(b)
    difference, se, n = x.mean - y.mean, math.hypot(x.se, y.se), min(x.n, y.n)
    sd = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    if se == 0:
        known = Interval(difference, difference, difference, 0.0, n)
        return Difference(known, float(difference == 0), float(x.n + y.n - 2), False, None, 0.0)
    # In shares of se, which can be too small for its fourth power.
    share_x, share_y = (x.se / se) ** 2, (y.se / se) ** 2
    degrees = 1 / (share_x**2 / (x.n - 1) + share_y**2 / (y.n - 1))
    half = float(stdtrit(degrees, (1 + level) / 2)) * se
    p = 2 * float(stdtr(degrees, -abs(difference) / se))
    interval = Interval(difference, difference - half, difference + half, se, n)
    return Difference(interval, p, degrees, False, None, sd)


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """Mean of a minus mean of b, values by seed; None for a group of fewer than two.

    Paired where that helps: both have the same seeds, and their correlation over seeds is above
    zero by its own one-sided test at 5 %. Else Welch's test of all values.
    """
    if min(len(a), len(b)) < 2:
        return None
    common = sorted(a.keys() & b.keys())
    own, other = [a[seed] for seed in common], [b[seed] for seed in common]
    r = correlation(own, other)
    if r is None or a.keys() != b.keys() or correlation_p(r, len(common)) > ALPHA:
        found = welch(list(a.values()), list(b.values()))
        spread = found.interval, found.p, found.degrees, False
        return Difference(*spread, r, found.sd)
    test = paired_difference(own, other)
    sd = test.difference.se * math.sqrt(test.n)
    return Difference(test.difference, test.p, float(test.n - 1), True, r, sd)


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's r of pairs; None for fewer than three, or where one side does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return max(-1.0, min(1.0, float(np.corrcoef(a, b)[0, 1])))


def correlation_p(r: float, n: int) -> float:
    """One-sided p of the test that a correlation of n pairs is not above zero.

    t = r √(n − 2) / √(1 − r²), with n − 2 degrees of freedom. Raises ValueError for fewer than
    three pairs.
    """
    if n < 3:
        raise ValueError(f"{n} pairs: three are needed")
    if abs(r) == 1:
        return float(r < 0)
    return float(stdtr(n - 2, -r * math.sqrt((n - 2) / (1 - r * r))))


def power(n: int, effect: float, sd: float, *, paired: bool = False) -> float:
    """The chance that a two-sided t-test at 5 % decides, n seeds of each method.

    `effect` is the true difference; `sd` the spread over seeds of each method, or, `paired`, that
    of differences of pairs. Exact, by the noncentral t distribution. Raises ValueError for n < 2
    or a negative spread.
    """
    if n < 2 or sd < 0:
        raise ValueError(f"n = {n}, sd = {sd}: two seeds and a spread are needed")
    if sd == 0:
        return float(effect != 0)
    degrees, scale = (n - 1, 1) if paired else (2 * (n - 1), 2)
    away = abs(effect) / sd * math.sqrt(n / scale)
    bound = float(stdtrit(degrees, 1 - ALPHA / 2))
    if away > bound + 40:  # where the distribution function is no longer computed well
        return 1.0
    below = float(nctdtr(degrees, away, -bound)) if away < 5 else 0.0  # the wrong side
    return 1 - float(nctdtr(degrees, away, bound)) + below


def seeds_for(
    effect: float, sd: float, *, paired: bool = False, wanted: float = POWER
) -> int | None:
    """The smallest number of seeds of each method that decides with `power` ≥ `wanted`.

    None where no number up to `MOST_SEEDS` does, as for an effect of zero.
    """
    low, high = 1, 2
    while high <= MOST_SEEDS and power(high, effect, sd, paired=paired) < wanted:
        low, high = high, 2 * high
    if high > MOST_SEEDS:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, effect, sd, paired=paired) < wanted:
            low = middle
        else:
            high = middle
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method, in the order given.

    Holm 1979: the k-th smallest of m is multiplied by m − k + 1; none is below a smaller one's.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"{list(p_values)}: p-values lie in [0, 1]")
    adjusted, least = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted

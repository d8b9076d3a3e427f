"""Intervals, paired and unpaired comparisons, and diversity: arithmetic on plain numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit  # scipy.stats takes twenty times as long to import


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval, standard error, and number of values.

    With n = 1 the spread is unknown: se is 0 and the interval is the mean itself, so that tables
    need no NaN. Whoever prints it says n = 1.
    """

    mean: float
    low: float
    high: float
    se: float
    n: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A paired t-test: the mean difference with its interval, t, two-sided p, number of pairs."""

    difference: Interval
    t: float
    p: float
    n: int


def mean_ci(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of `values` and Student's t interval (ddof 1, n - 1 degrees of freedom).

    Raises ValueError without values, with one that is not finite, or for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must lie in (0, 1)")
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    if n == 0 or not np.isfinite(array).all():
        raise ValueError(f"{n} values: at least one is needed, all of them finite")
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, mean, mean, 0.0, 1)
    return from_error(mean, float(array.std(ddof=1)) / math.sqrt(n), n, level)


def from_error(mean: float, se: float, n: int, level: float = 0.95) -> Interval:
    """Return Student's t interval of a mean of n values that is known with its standard error."""
    half = float(stdtrit(n - 1, (1 + level) / 2)) * se if n > 1 else 0.0
    return Interval(mean, mean - half, mean + half, se, n)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> PairedTest:
    """Return the paired t-test of a - b, where a[i] and b[i] belong together.

    Equal differences have no spread: then t is infinite (0 if they are zero) and p is 0 (1). One
    pair proves nothing: t is 0 and p is 1. Raises ValueError for unequal lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: pairs need equally many")
    difference = mean_ci([x - y for x, y in zip(a, b, strict=True)], level)
    t = _in_standard_errors(difference.mean, difference.se, difference.n)
    p = 2 * float(stdtr(difference.n - 1, -abs(t))) if difference.n > 1 else 1.0
    return PairedTest(difference, t, p, difference.n)


def p_value(x: Interval, bound: float = 0.0) -> float:
    """Return the two-sided p of Student's t-test that the mean of an interval is `bound`.

    1 for a single value, whose spread is unknown; without a spread 0, or 1 at the bound itself.
    """
    t = _in_standard_errors(x.mean - bound, x.se, x.n)
    return 2 * float(stdtr(x.n - 1, -abs(t))) if x.n > 1 else 1.0


def authors_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and 2 sd / sqrt(n), sd with ddof 0 (the released code of Chan et al. 2024).

    They print it as a 95 % interval; for n = 5 the t interval is 1.55 times as wide.
    """
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), 2 * float(array.std(ddof=0)) / math.sqrt(array.size)


def ratio_of_means(top: Sequence[float], bottom: Sequence[float]) -> Interval | None:
    """mean(top) / mean(bottom) of pairs, with Fieller's 95 % interval (Fieller 1954).

    The interval holds every ratio r for which the paired t-test does not tell top − r · bottom from
    0. None where the interval of mean(bottom) holds 0: the ratios are then not bounded.
    """
    n = len(bottom)
    x, y = mean_ci(top), mean_ci(bottom)
    if n < 2 or y.low <= 0 <= y.high:
        return None
    t2 = float(stdtrit(n - 1, 0.975)) ** 2 / n
    (vxx, vxy), (_, vyy) = np.cov(np.asarray(top, float), np.asarray(bottom, float))
    a = y.mean**2 - t2 * vyy
    b = x.mean * y.mean - t2 * vxy
    c = x.mean**2 - t2 * vxx
    half = math.sqrt(max(0.0, b * b - a * c))
    return Interval(x.mean / y.mean, float((b - half) / a), float((b + half) / a), half / a, n)


def ratio_error(sums: Sequence[float], counts: Sequence[float]) -> float:
    """Standard error of Σ sums / Σ counts over pairs that were drawn, by the delta method; 0 for a
    single pair, whose spread is unknown."""
    top, bottom = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    rest, n = top - top.sum() / bottom.sum() * bottom, len(top)
    return float(np.sqrt((rest**2).sum() * n / max(n - 1, 1)) / bottom.sum())


def spread_ratio(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Return sd(a) / sd(b) of pairs with its interval (Pitman 1939, Morgan 1939).

    a[i] and b[i] belong together. The interval excludes 1 exactly where the correlation of a + b
    and a - b is significant. `se` is 0: the interval is not symmetric. Raises ValueError
    for unequal lengths, fewer than three pairs, or values without spread.
    """
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"{len(a)} and {len(b)} values: three pairs are needed")
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.std() == 0 or y.std() == 0:
        raise ValueError("values without spread have no ratio of spreads")
    n, ratio = x.size, float(x.var(ddof=1) / y.var(ddof=1))
    r = float(np.corrcoef(x, y)[0, 1])
    t = float(stdtrit(n - 2, (1 + level) / 2))
    k = 1 + 2 * max(0.0, 1 - r * r) * t * t / (n - 2)
    root = math.sqrt(k * k - 1)
    low, high = ratio * (k - root), ratio * (k + root)
    return Interval(math.sqrt(ratio), math.sqrt(low), math.sqrt(high), 0.0, n)


def fisher_exact(hits_a: int, n_a: int, hits_b: int, n_b: int) -> float:
    """Return the two-sided p of Fisher's exact test that two shares are equal."""
    hits, n = hits_a + hits_b, n_a + n_b
    ways = math.comb(n, hits)
    chances = [
        math.comb(n_a, k) * math.comb(n_b, hits - k) / ways
        for k in range(max(0, hits - n_b), min(hits, n_a) + 1)
    ]
    seen = math.comb(n_a, hits_a) * math.comb(n_b, hits_b) / ways
    return min(1.0, sum(chance for chance in chances if chance <= seen * (1 + 1e-9)))


def standard_errors_apart(a: Sequence[float], b: Sequence[float]) -> float:
    """Return (mean of a - mean of b) / sqrt(se_a^2 + se_b^2), Welch's statistic.

    0 if either has one value only, since its spread is unknown.
    """
    return apart(mean_ci(a), mean_ci(b))


def apart(a: Interval, b: Interval) -> float:
    """Return `standard_errors_apart` of two samples that are known by mean and standard error."""
    return _in_standard_errors(a.mean - b.mean, math.hypot(a.se, b.se), min(a.n, b.n))


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share that was observed in n independent trials.

    Unlike mean ± 1.96 se it stays inside [0, 1] and has a width where all trials agree. Trials that
    count half (draws) vary less than a coin, so for them it is wide enough and to spare.
    """
    if not 0 <= share <= 1 or n <= 0 or not 0 < level < 1:
        raise ValueError(f"share = {share}, n = {n}, level = {level}: no interval for these")
    z = float(ndtri((1 + level) / 2))
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of distinct word n-grams among all of `texts` (Li et al. 2016, distinct-n).

    Words are what white space separates, no n-gram spans two texts, and texts too short for any
    give 0.
    """
    grams = [gram for row in _grams(texts, n) for gram in row]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_n_error(texts: Sequence[str], n: int) -> float:
    """Return the standard error of `distinct_n` by the jackknife over texts.

    The ratio is one number of a whole corpus: each text is left out in turn, and the spread of what
    is left is multiplied by (k - 1) / k for k texts (Efron and Stein 1981). 0 for fewer than two
    texts, whose spread is unknown.
    """
    rows = _grams(texts, n)
    k = len(rows)
    if k < 2:
        return 0.0
    total = sum(map(len, rows))
    holders = Counter(gram for row in rows for gram in set(row))
    alone = [sum(holders[gram] == 1 for gram in set(row)) for row in rows]
    left = np.array(
        [
            (len(holders) - own) / (total - len(row)) if total > len(row) else 0.0
            for row, own in zip(rows, alone, strict=True)
        ]
    )
    return math.sqrt((k - 1) / k * float(((left - left.mean()) ** 2).sum()))


def _grams(texts: Sequence[str], n: int) -> list[list[tuple[str, ...]]]:
    """The word n-grams of each text."""
    if n < 1:
        raise ValueError(f"n = {n}: must be at least 1")
    return [
        [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        for words in map(str.split, texts)
    ]


def _in_standard_errors(difference: float, se: float, n: int) -> float:
    if n == 1 or difference == 0:
        return 0.0
    return difference / se if se > 0 else math.copysign(math.inf, difference)

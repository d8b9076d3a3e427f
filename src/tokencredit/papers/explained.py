"""How much of what a method gains over a baseline a control gains too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from tokencredit.papers.verdicts import Evidence, Finding, all_of, difference, judge, nothing
from tokencredit.statistics.intervals import Interval, mean_ci
from tokencredit.statistics.rounding import with_interval


def share_explained(evidence: Evidence) -> Finding:
    """(control − baseline) / (method − baseline) of the same runs, for each of `others`.

    Supported where every control's share lies below 1: then the method has something that the
    control lacks. Undecided where the method's own gain may be 0, whatever the share is.
    """
    return all_of([_of_control(evidence, control) for control in evidence.others])


def _of_control(evidence: Evidence, control: str) -> Finding:
    method, baseline = evidence.method, evidence.baseline
    values = [evidence.values(name) for name in (method, control, baseline)]
    common = sorted(set.intersection(*(set(of_one) for of_one in values)))
    name = f"({control} − {baseline}) / ({method} − {baseline})"
    if len(common) < 2:
        return nothing(f"{name}: {len(common)} runs of all three")
    gained, explained = ([values[k][run] - values[2][run] for run in common] for k in (0, 1))
    gain = mean_ci(gained)
    share = ratio_of_means(explained, gained)
    parts = f"{control} − {baseline} = {difference(mean_ci(explained))}, {method} − {baseline} = "
    parts += difference(gain)
    if share is None:
        return nothing(f"{name}: {parts}, which may be 0", gain.n)
    text = f"{name} = {with_interval(share)}; {parts}"
    return Finding(judge(share.low, share.high, 1, above=False), text, gain.n)


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

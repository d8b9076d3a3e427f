"""The statistics of claims about whole courses of training: steps, β, lengths, and KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from tokencredit.papers.entries import Panel
from tokencredit.papers.measures import LAST, collapsed, curves, measure
from tokencredit.papers.on_the_way import gold_at_levels
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.verdicts import (
    Evidence,
    Finding,
    Verdict,
    all_of,
    difference,
    higher,
    judge,
    lower,
    no_data,
    nothing,
    smaller_spread,
)
from tokencredit.statistics.curves import at_level, mean, running_mean
from tokencredit.statistics.intervals import (
    fisher_exact,
    mean_ci,
    p_value,
    paired_difference,
    ratio_of_means,
)
from tokencredit.statistics.rounding import rounded, with_interval
from tokencredit.statistics.testing import ALPHA, compare


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
    p = paired_difference(explained, gained).p  # of a share of 1, whose interval Fieller's is
    parts = f"{control} − {baseline} = {difference(mean_ci(explained))}, {method} − {baseline} = "
    parts += difference(gain)
    if share is None:
        return nothing(f"{name}: {parts}, which may be 0", gain.n)
    text = f"{name} = {with_interval(share)}; {parts}"
    return Finding(judge(share.low, share.high, 1, above=False), text, gain.n, p)


RESAMPLES: Final = 2000
LEVELS: Final = 10


def passes_maximum(evidence: Evidence) -> Finding:
    """Share of the baseline's steps to its highest mean that the method takes to pass it.

    The interval is that of resampled runs, pairs together.
    """
    panel, runs = evidence.panels[0], evidence.runs[0]
    both = [
        {run.run: run for run in runs.get(method, ()) if run.first(panel.points_of(run))}
        for method in (evidence.method, evidence.baseline)
    ]
    common = sorted(both[0].keys() & both[1].keys())
    if len(common) < 3:
        return nothing(f"{len(common)} pairs of runs")
    points = panel.points_of(both[0][common[0]])
    a, b = (curves([group[run] for run in common], points, panel.column) for group in both)
    at, share = _passing(a.mean(axis=0), b.mean(axis=0))
    draws = np.random.default_rng(0).integers(0, len(common), (RESAMPLES, len(common)))
    shares = [_passing(a[rows].mean(axis=0), b[rows].mean(axis=0))[1] for rows in draws]
    low, high = np.quantile(shares, [0.025, 0.975], method="inverted_cdf")
    top = int(b.mean(axis=0).argmax())
    peak = (
        f"{evidence.baseline}'s highest mean, {rounded(float(b.mean(axis=0)[top]))} at step {top}"
    )
    how = "is never passed" if at is None else f"is passed at step {at} ({100 * share:.0f} %)"
    ends = " to ".join("never" if math.isinf(x) else f"{100 * x:.0f} %" for x in (low, high))
    text = f"{peak}, {how}; resampled runs: {ends}"
    verdict = judge(low, high, evidence.share, above=False)
    return Finding(verdict, text, len(common), _resampled_p(shares, evidence.share))


def _resampled_p(shares: Sequence[float], bound: float) -> float:
    """Two-sided: twice the share of resamples on the smaller side of the bound, and never 0."""
    below, above = sum(s <= bound for s in shares), sum(s >= bound for s in shares)
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(shares)))


def _passing(a: np.ndarray, b: np.ndarray) -> tuple[int | None, float]:
    """The first step at which `a` exceeds the maximum of `b`, and that as share of b's steps."""
    top = int(b.argmax())
    above = np.nonzero(a > b[top])[0]
    if not len(above):
        return None, math.inf
    return int(above[0]), float(above[0]) / top if top else (0.0 if above[0] == 0 else math.inf)


def rises_with_beta(evidence: Evidence) -> Finding:
    """Slope of a run's mean over β by least squares, one slope a run number; t interval of it."""
    by_run: dict[int, dict[float, float]] = {}
    for run in evidence.runs[0].get(evidence.method, ()):
        value = measure([run], evidence.panels[0], evidence.statistic).values.get(run.run)
        if run.setting.beta is not None and value is not None:
            by_run.setdefault(run.run, {})[run.setting.beta] = value
    most = max((len(values) for values in by_run.values()), default=0)
    whole = [values for values in by_run.values() if len(values) == most]
    if most < 3 or len(whole) < 2:
        return nothing("no runs at three values of β or more")
    slopes = [_slope(values) for values in whole]
    x = mean_ci(slopes)
    left = len(by_run) - len(slopes)
    rest = f"; {left} runs lack some β" if left else ""
    text = f"slope {difference(x)} over {most} values of β{rest}"
    verdict = judge(x.low, x.high, 0, above=True, margin=evidence.margin)
    return Finding(verdict, text, x.n, p_value(x))


def _slope(values: Mapping[float, float]) -> float:
    """Of the line of least squares."""
    beta = np.array(sorted(values))
    apart = beta - beta.mean()
    return float(apart @ np.array([values[x] for x in beta]) / (apart @ apart))


def collapses_with_length(evidence: Evidence) -> Finding:
    """Share of runs that lost half of their best gain: longest range, baseline against the dense.

    Fisher's exact test of the two shares; supported where the share also grew from the shortest
    range, contradicted where it is the dense rewards that lose more.
    """
    present = [k for k, runs in enumerate(evidence.runs) if runs.get(evidence.baseline)]
    dense = [m for m in evidence.others if present and evidence.runs[present[-1]].get(m)]
    if len(present) < 2 or not dense:
        return nothing("no runs of two ranges of lengths")
    counts = {k: _counts(evidence, k, [evidence.baseline]) for k in (present[0], present[-1])}
    short, long = counts[present[0]], counts[present[-1]]
    other = _counts(evidence, present[-1], dense)
    p = fisher_exact(*long, *other)
    shares = [hits / n for hits, n in (short, long, other)]
    names = [_range(evidence.panels[k]) for k in (present[0], present[-1])]
    text = (
        f"{evidence.baseline}: {short[0]} of {short[1]} runs lost at {names[0]}, {long[0]} of "
        f"{long[1]} at {names[1]}; {', '.join(dense)}: {other[0]} of {other[1]} at {names[1]}; "
        f"p = {p:.2g}"
    )
    verdict = Verdict.undecided
    if p < ALPHA and shares[1] > max(shares[0], shares[2]):
        verdict = Verdict.supported
    elif p < ALPHA and shares[1] < shares[2]:
        verdict = Verdict.contradicted
    return Finding(verdict, text, long[1], p)


def _counts(evidence: Evidence, place: int, methods: Sequence[str]) -> tuple[int, int]:
    panel = evidence.panels[place]
    runs = [run for method in methods for run in evidence.runs[place].get(method, ())]
    return sum(collapsed(run, panel.points_of(run)) for run in runs), len(runs)


def _range(panel: Panel) -> str:
    return "–".join(map(str, panel.lengths or [])) + " tokens"


def higher_at_equal_kl(evidence: Evidence) -> Finding:
    """Mean difference of rewards at ten levels of KL that both runs of a pair reach; paired t."""
    panel, found, lost = evidence.panels[0], [], 0
    groups = [
        {run.run: run for run in evidence.runs[0].get(method, ())}
        for method in (evidence.method, evidence.baseline)
    ]
    if not any("kl" in run.columns for group in groups for run in group.values()):
        return no_data("no kl in these runs")
    for number in sorted(groups[0].keys() & groups[1].keys()):
        gap = _gap(groups[0][number], groups[1][number], panel)
        lost += gap is None
        found += [] if gap is None else [gap]
    if len(found) < 2:
        return nothing(f"{len(found)} pairs of runs with a common range of KL")
    x = mean_ci(found)
    rest = f"; {lost} pairs have no common range" if lost else ""
    text = f"{evidence.method} − {evidence.baseline} = {difference(x)}{rest}"
    verdict = judge(x.low, x.high, 0, above=True, margin=evidence.margin)
    return Finding(verdict, text, x.n, p_value(x))


def gold_at_equal_kl(evidence: Evidence) -> Finding:
    """The t-test of the oracle's ratings where held-out KL first comes to the claim's level, paired
    where that helps, as the page's reading at equal KL is.

    One value a run, linear between evaluations; runs that never come there are counted and said.
    """
    level = evidence.level
    assert level is not None
    groups = {name: evidence.runs[0].get(name, ()) for name in (evidence.method, evidence.baseline)}
    if not all(any(run.origin.on_the_way for run in runs) for runs in groups.values()):
        return no_data("no held-out evaluations during training in these runs")
    found = {name: gold_at_levels(runs, [level])[0] for name, runs in groups.items()}
    reach = " and ".join(f"{len(found[name])} of {len(groups[name])} {name}" for name in groups)
    there = f"{reach} runs come to {level:g} nats"
    own, other = groups
    test = compare(found[own], found[other])
    if test is None:
        return nothing(there, min(map(len, found.values())))
    x, paired = test.interval, " (paired)" if test.paired else ""
    text = f"{own} − {other} = {difference(x)}{paired}, p = {test.p:.2g}; {there}"
    verdict = judge(x.low, x.high, 0, above=True, margin=evidence.margin)
    return Finding(verdict, text, x.n, test.p)


def _gap(a: LoggedRun, b: LoggedRun, panel: Panel) -> float | None:
    """Mean of a's reward minus b's at ten levels of KL; None without levels that both reach."""
    pairs = [
        (run.first(panel.points_of(run), "kl"), run.first(panel.points_of(run))) for run in (a, b)
    ]
    tops = [max(running_mean(kl, LAST)) for kl, _ in pairs if kl is not None]
    if len(tops) < 2 or min(tops) <= 0:
        return None
    gaps = []
    for level in (min(tops) * k / LEVELS for k in range(1, LEVELS + 1)):
        here = [at_level(kl, rewards, level) for kl, rewards in pairs if kl and rewards]
        if len(here) == 2 and here[0] is not None and here[1] is not None:
            gaps.append(here[0] - here[1])
    return mean(gaps) if gaps else None


TESTS: Final[Mapping[str, Callable[[Evidence], Finding]]] = {
    "passes_maximum": passes_maximum,
    "higher": higher,
    "lower": lower,
    "smaller_spread": smaller_spread,
    "rises_with_beta": rises_with_beta,
    "collapses_with_length": collapses_with_length,
    "higher_at_equal_kl": higher_at_equal_kl,
    "gold_at_equal_kl": gold_at_equal_kl,
    "share_explained": share_explained,
}
SHARES: Final = ("passes_maximum", "collapses_with_length", "share_explained")
"""Tests of shares, for which no margin can be stated."""
JOINT: Final = ("collapses_with_length",)
"""Tests that look at all panels of a claim together."""

"""What decides a claim: a verdict from an estimate and its interval, and the paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np

from tokencredit.papers.entries import Panel
from tokencredit.papers.measures import HELD_OUT, SFT, held_out, measure
from tokencredit.papers.runs import LoggedRun
from tokencredit.statistics.intervals import Interval, paired_difference, spread_ratio
from tokencredit.statistics.rounding import rounded, with_interval
from tokencredit.statistics.testing import ALPHA, correlation, correlation_p, holm


class Verdict(str, Enum):
    """What runs say of a claim."""

    supported = "supported"
    """The 95 % interval lies on the claimed side."""
    contradicted = "contradicted"
    """The 95 % interval lies on the other side."""
    equivalent = "equivalent"
    """The 95 % interval lies within the margin that was stated before the runs."""
    undecided = "cannot be decided"
    """All else."""


WORST_FIRST: Final = (
    Verdict.contradicted,
    Verdict.undecided,
    Verdict.equivalent,
    Verdict.supported,
)
DEFINITIONS: Final = (
    "Verdicts, from 95 % intervals: *supported*, the interval lies on the claimed side; "
    "*contradicted*, it lies on the other side; *equivalent*, it lies within a margin that was "
    "stated before the runs; *cannot be decided*, all else; *no data*, there are no such runs. A "
    "page has one primary claim, which stands by itself; the p-values of its others are corrected "
    "for their number (Holm), and a verdict that this takes away stands in brackets."
)
NO_DATA: Final = "no data"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, the numbers behind it, and how many runs or pairs they are of."""

    verdict: Verdict
    numbers: str
    n: int = 0
    p: float | None = None
    """Two-sided, of the test behind the verdict; None where there is none."""
    data: bool = True
    """Whether there were any such runs."""
    adjusted: float | None = None
    """p corrected for the number of claims; None where it was not."""
    alone: Verdict | None = None
    """The verdict by itself, where the correction took it away."""

    @property
    def word(self) -> str:
        """The verdict as it is printed."""
        if not self.data:
            return NO_DATA
        aside = "" if self.alone is None else f" (by itself: {self.alone.value})"
        return f"{self.verdict.value}{aside}"

    @property
    def text(self) -> str:
        """The numbers, with the corrected p."""
        more = "" if self.adjusted is None else f"; corrected p = {self.adjusted:.2g}"
        return f"{self.numbers}{more}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The runs of one task that a claim is about."""

    panels: Sequence[Panel]
    runs: Sequence[Mapping[str, Sequence[LoggedRun]]]
    """For each panel the runs by method."""
    method: str
    baseline: str
    others: Sequence[str]
    statistic: str
    share: float
    margin: float | None = None
    level: float | None = None
    """Nats, with gold_at_equal_kl."""

    def values(self, method: str, panel: int = 0) -> dict[int, float]:
        """The statistic of each run of a method, by run; of the SFT model, where it has no runs,
        what the others' evaluations say of the one that they began with. A model that learnt
        without rollouts meets every run of its `stage_seed`, by that run's number."""
        runs, shown = self.runs[panel], self.panels[panel]
        if method == SFT and method not in runs and self.statistic == HELD_OUT:
            name, every = f"{SFT}/{shown.column}", (run for own in runs.values() for run in own)
            return {run.run: x for run in every if (x := held_out(run, name)) is not None}
        own = runs.get(method, ())
        found = measure(own, shown, self.statistic).values
        shared = {
            run.origin.made.stage_seed: found[run.run]
            for run in own
            if run.stepless and run.run in found
        }
        all_runs = [run for of_one in runs.values() for run in of_one]
        met = {r.run: shared[s] for r in all_runs if (s := r.origin.made.stage_seed) in shared}
        return {**met, **found}

    def pair(self, a: str, b: str) -> tuple[list[float], list[float]]:
        """The statistic of the runs that both methods have."""
        of_a, of_b = self.values(a), self.values(b)
        common = sorted(of_a.keys() & of_b.keys())
        return [of_a[run] for run in common], [of_b[run] for run in common]


def nothing(why: str, n: int = 0) -> Finding:
    """The finding where there is nothing that can decide."""
    return Finding(Verdict.undecided, why, n)


def no_data(why: str) -> Finding:
    """The finding where there are no such runs."""
    return Finding(Verdict.undecided, why, data=False)


def all_of(findings: Sequence[Finding]) -> Finding:
    """The finding on a claim that consists of several: no better than the worst of them.

    All parts must hold, so its p is the largest of theirs; where some contradict it, one is enough,
    and p is the smallest of those times the number of parts (Bonferroni).
    """
    verdicts = [finding.verdict for finding in findings]
    worst = min(verdicts, key=WORST_FIRST.index)
    known = [finding.p for finding in findings if finding.p is not None]
    against = [f.p for f in findings if f.p is not None and f.verdict is Verdict.contradicted]
    p = max(known) if len(known) == len(findings) else None
    if against:
        p = min(1.0, len(findings) * min(against))
    data = any(finding.data for finding in findings)
    numbers = "; ".join(f.numbers for f in findings)
    return Finding(worst, numbers, min(f.n for f in findings), p, data)


def corrected(findings: Sequence[Finding], primary: Sequence[bool]) -> list[Finding]:
    """The findings of one page with the p-values of all but the primary ones adjusted by Holm.

    A verdict for or against a claim whose adjusted p is 5 % or more becomes *cannot be decided*.
    An equivalence is not a test of p, and stays; findings without a p are not counted.
    """
    places = [k for k, f in enumerate(findings) if f.p is not None and not primary[k]]
    adjusted = holm([p for k in places if (p := findings[k].p) is not None])
    found = list(findings)
    for place, p in zip(places, adjusted, strict=True):
        before = found[place]
        decided = before.verdict in {Verdict.supported, Verdict.contradicted}
        found[place] = replace(before, adjusted=p)
        if decided and p >= ALPHA:
            found[place] = replace(
                before, adjusted=p, verdict=Verdict.undecided, alone=before.verdict
            )
    return found


def judge(
    low: float, high: float, bound: float, *, above: bool, margin: float | None = None
) -> Verdict:
    """The verdict on "above `bound`", or below it, from the ends of an interval.

    `margin` is the distance from `bound` that counts as no difference; None: none was stated. An
    interval that is on the claimed side supports the claim however small the difference is.
    """
    sides = (low > bound, high < bound)
    claimed, other = sides if above else sides[::-1]
    if claimed:
        return Verdict.supported
    if margin is not None and bound - margin < low and high < bound + margin:
        return Verdict.equivalent
    return Verdict.contradicted if other else Verdict.undecided


def higher(evidence: Evidence) -> Finding:
    """Paired t-test of method minus baseline."""
    a, b = evidence.pair(evidence.method, evidence.baseline)
    name = f"{evidence.method} − {evidence.baseline}"
    return _paired(a, b, name, above=True, margin=evidence.margin)


def lower(evidence: Evidence) -> Finding:
    """Paired t-tests of the method against each other one; all must point down."""
    findings = []
    for other in evidence.others:
        a, b = evidence.pair(evidence.method, other)
        name = f"{evidence.method} − {other}"
        findings.append(_paired(a, b, name, above=False, margin=evidence.margin))
    return all_of(findings)


def _paired(
    a: Sequence[float], b: Sequence[float], name: str, *, above: bool, margin: float | None
) -> Finding:
    if len(a) < 2:
        return nothing(f"{name}: {len(a)} pairs of runs")
    test = paired_difference(a, b)
    verdict = judge(test.difference.low, test.difference.high, 0, above=above, margin=margin)
    text = f"{name} = {difference(test.difference)}, p = {test.p:.2g}"
    return Finding(verdict, text, test.n, test.p)


def difference(x: Interval) -> str:
    """A difference with its interval."""
    return with_interval(x, signed=True)


def smaller_spread(evidence: Evidence) -> Finding:
    """Ratio of standard deviations of paired runs, with Pitman's and Morgan's interval."""
    a, b = evidence.pair(evidence.method, evidence.baseline)
    name = f"sd {evidence.method} / sd {evidence.baseline}"
    if len(a) < 3 or np.std(a) == 0 or np.std(b) == 0:
        return nothing(f"{name}: {len(a)} pairs of runs")
    x = spread_ratio(a, b)
    verdict = judge(x.low, x.high, 1, above=False, margin=evidence.margin)
    sds = " / ".join(rounded(float(np.std(values, ddof=1))) for values in (a, b))
    pairs = list(zip(a, b, strict=True))
    r = correlation([s + t for s, t in pairs], [s - t for s, t in pairs])
    p = 1.0 if r is None else 2 * correlation_p(abs(r), x.n)
    return Finding(verdict, f"{name} = {sds} = {with_interval(x)}", x.n, p)

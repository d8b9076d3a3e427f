"""One number of one run: what tables average and claims compare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tokencredit.papers.entries import Panel
from tokencredit.papers.runs import LoggedRun
from tokencredit.statistics.curves import at_level, mean, running_mean

LAST: Final = 10
"""Points that are the end of a run."""
START: Final = 5
"""Points that are its beginning."""


HELD_OUT: Final = "held_out"
"""The statistic of a measure on held-out prompts after training, which has no steps."""
STEPLESS: Final = "has no steps, since it learnt without rollouts"
SFT: Final = "sft"
"""The method that is the model all began with; where it has no runs, theirs have measured it."""


@dataclass(slots=True)
class Measured:
    """The numbers of some runs by run, and the runs that have none, with the reason."""

    values: dict[int, float] = field(default_factory=dict)
    without: list[tuple[int, str]] = field(default_factory=list)
    """Runs that are not among `values`, each with the reason."""
    fallen: int = 0
    """Runs among `values` whose reward ended below where it began."""


def measure(runs: Iterable[LoggedRun], panel: Panel, statistic: str = "mean") -> Measured:
    """The statistic of each run over exactly its first points; no run is left out unsaid."""
    found = Measured()
    for run in runs:
        if statistic == HELD_OUT:
            value = held_out(run, f"policy/{panel.column}")
            if value is None:
                found.without.append((run.run, f"has no {panel.column} on held-out prompts"))
            else:
                found.values[run.run] = value
            continue
        points = panel.points_of(run)
        needed = [panel.column, *(["kl"] if statistic == "at_kl" else [])]
        reason = next(filter(None, (lacking(run, points, column) for column in needed)), "")
        value = None if reason else of_run(run, points, panel, statistic)
        if value is None:
            found.without.append((run.run, reason or f"never reaches {panel.kl} nats"))
            continue
        found.values[run.run] = value
        found.fallen += fell(run, points)
    return found


def held_out(run: LoggedRun, name: str) -> float | None:
    """The mean of a measure on held-out prompts; None without one, or where it is no number."""
    found = run.origin.evaluation.get(name)
    value = None if found is None else float(found["mean"])
    return value if value is not None and math.isfinite(value) else None


def holds(run: LoggedRun, column: str, statistic: str) -> bool:
    """Whether a run has a column that a statistic is of."""
    if statistic == HELD_OUT:
        return f"policy/{column}" in run.origin.evaluation
    return column in run.columns


def lacking(run: LoggedRun, points: int, column: str = "mean_reward") -> str:
    """Why the first points of a run cannot be averaged; empty if they can."""
    if run.stepless:
        return STEPLESS
    if column not in run.columns:
        return f"has no {column} column"
    if len(run) < points:
        state = "" if run.status == "complete" else f" ({run.status})"
        return f"{len(run)} of {points} points{state}"
    return "" if run.first(points, column) is not None else f"{column} is not finite"


def of_run(run: LoggedRun, points: int, panel: Panel, statistic: str) -> float | None:
    """The statistic of a run that has its points; None where it never reaches the level."""
    values = run.columns[panel.column][:points]
    if statistic == "at_kl":
        kl = run.first(points, "kl")
        return None if kl is None or panel.kl is None else at_level(kl, values, panel.kl)
    return mean(values[-LAST:] if statistic == "last" else values)


def fell(run: LoggedRun, points: int) -> bool:
    """Whether the mean of the last ten points lies below that of the first five."""
    rewards = run.first(points)
    return rewards is not None and mean(rewards[-LAST:]) < mean(rewards[:START])


def collapsed(run: LoggedRun, points: int) -> bool:
    """Whether a run ended with less than half of its best gain, or did not end at all.

    Start, best, and end are of running means over ten points. This is what a policy that was found
    and lost again looks like, even where it stays above its beginning.
    """
    rewards = run.first(points)
    if rewards is None:
        return True
    start, smooth = mean(rewards[:START]), running_mean(rewards, LAST)
    best = max(smooth[LAST - 1 :] or smooth)
    return smooth[-1] - start < (best - start) / 2


def curves(runs: Sequence[LoggedRun], points: int, column: str) -> np.ndarray:
    """The first points of the runs that have them, (runs, points)."""
    found = [values for run in runs if (values := run.first(points, column)) is not None]
    return np.array(found, dtype=np.float64).reshape(len(found), points)


def in_words(without: Iterable[tuple[int, str]]) -> list[str]:
    """Runs with one reason in one line."""
    reasons: dict[str, list[int]] = {}
    for run, reason in without:
        reasons.setdefault(reason, []).append(run)
    return [
        f"run{'s' if len(runs) > 1 else ''} {', '.join(map(str, runs))}: {reason}"
        for reason, runs in reasons.items()
    ]

"""Held-out evaluations during training: what a policy is worth after so many steps, or nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from tokencredit.errors import UserError
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.sources import Source, short_label
from tokencredit.statistics.curves import at_level, mean
from tokencredit.statistics.intervals import Interval, mean_ci
from tokencredit.statistics.rounding import rounded, with_interval

GOLD: Final = "oracle"
"""The column of the oracle's ratings."""
PAID: Final = "score"
"""The column of the scores for which the policy is trained."""


def course(run: LoggedRun, column: str) -> tuple[list[float], list[float]]:
    """Steps at which a column was measured on held-out prompts, and its values there.

    The value at step s is of the policy after s updates. That of the finished run is the last, and
    the only one of a run without evaluations on the way. Empty where there is none. Raises
    `UserError` for columns of unequal lengths, or steps that do not rise.
    """
    way = run.origin.on_the_way
    steps, values = list(way.get("step", ())), list(way.get(column, ()))
    if any(a >= b for a, b in pairwise(steps)):
        raise UserError(f"{run.origin.path}: on_the_way: step: must rise; write the cell again")
    if values and len(values) != len(steps):
        counts = f"{len(values)} values for {len(steps)} steps"
        raise UserError(f"{run.origin.path}: on_the_way: {column}: {counts}; write the cell again")
    if not values:
        steps = []
    last = run.origin.evaluation.get(f"policy/{column}")
    if last is not None and (not steps or steps[-1] < len(run)):
        steps, values = [*steps, float(len(run))], [*values, float(last["mean"])]
    return steps, values


def at_step(run: LoggedRun, step: float, column: str = GOLD) -> float | None:
    """The value after that many steps, linear between evaluations; None outside of them."""
    steps, values = course(run, column)
    if not steps or not steps[0] <= step <= steps[-1] or not all(map(math.isfinite, values)):
        return None
    return float(np.interp(step, steps, values))


def at_kl(run: LoggedRun, level: float, column: str = GOLD) -> float | None:
    """The value where the policy first comes to `level` nats, linear between evaluations.

    None where it never does, or without evaluations on the way: how a run came to its end is then
    not known.
    """
    (steps, kl), (others, values) = course(run, "kl"), course(run, column)
    if len(steps) < 2 or steps != others or not all(map(math.isfinite, [*kl, *values])):
        return None
    return at_level(kl, values, level, window=1)


def gold_at_levels(runs: Sequence[LoggedRun], levels: Sequence[float]) -> list[dict[int, float]]:
    """For each level, in nats, the gold score there of every run that comes to it, by run."""
    found = [{run.run: at_kl(run, level) for run in runs} for level in levels]
    return [{run: x for run, x in values.items() if x is not None} for values in found]


def gold_reach(run: LoggedRun) -> float:
    """The highest KL of a run's evaluations, in nats; 0 without any on the way."""
    steps, kl = course(run, "kl")
    return max(0.0, *kl) if len(steps) > 1 and all(map(math.isfinite, kl)) else 0.0


def together(runs: Sequence[LoggedRun], column: str) -> tuple[list[float], list[list[float]]]:
    """Steps at which all runs with evaluations on the way were measured; each one's values there.

    Empty where no run has any.
    """
    courses = [course(run, column) for run in runs if column in run.origin.on_the_way]
    if not courses:
        return [], []
    common = sorted(set.intersection(*(set(steps) for steps, _ in courses)))
    at = [dict(zip(steps, values, strict=True)) for steps, values in courses]
    return common, [[values[step] for step in common] for values in at]


def over_optimisation(source: Source, task: str) -> str:
    """For every setting in a sentence: when its gold score was highest, and whether the paid score
    still rose from there. Empty where no cell holds evaluations on the way."""
    groups = source.of(task)
    said = [
        sentence
        for setting, runs in groups.items()
        if (sentence := _peak(short_label(setting, groups), runs))
    ]
    if not said:
        return ""
    how = (
        "Means over runs on held-out prompts, with 95 % t intervals of what changed from the step "
        "of the highest mean gold score to the end; since that step was chosen for its height, the "
        "fall after it is shown somewhat too large."
    )
    return "\n".join([how, "", *(f"- {sentence}" for sentence in said)])


def _peak(name: str, runs: Sequence[LoggedRun]) -> str:
    """Where the mean gold score of a setting is highest, and what came after."""
    known = [run for run in runs if {GOLD, PAID} <= run.origin.on_the_way.keys()]
    (steps, gold), (others, paid) = together(known, GOLD), together(known, PAID)
    if len(steps) < 2 or steps != others:
        return ""
    heights = [mean([values[place] for values in gold]) for place in range(len(steps))]
    top = max(range(len(steps)), key=lambda place: heights[place])
    name = f"{name} ({len(known)} runs)"
    highest = f"the gold score is highest at step {steps[top]:g} of {steps[-1]:g}"
    if top == len(steps) - 1:
        return f"{name}: {highest}, its last evaluation ({rounded(heights[top])})."
    fall, rise = (mean_ci([v[-1] - v[top] for v in values]) for values in (gold, paid))
    if rise.n > 1 and rise.low > 0:
        then = "while the paid score still rose"
    elif rise.n > 1 and rise.high < 0:
        then = "and the paid score fell too"
    else:
        then = "and whether the paid score still rose cannot be told"
    peak = f"{highest} ({rounded(heights[top])}; to the end {_change(fall)})"
    return f"{name}: {peak}, {then} ({_change(rise)})."


def _change(x: Interval) -> str:
    return with_interval(x, signed=True) if x.n > 1 else rounded(x.mean, signed=True)

"""The paid score against distance from the reference: what runs have where they reach a level.

A run is at a level of KL where its own, as a running mean over ten steps, first reaches it; its
score there is the running mean of the same steps. Runs that never come there have no number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from tokencredit.papers.formats import markdown
from tokencredit.papers.measures import LAST, held_out
from tokencredit.papers.on_the_way import gold_at_levels, gold_reach
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, lengths, with_steps
from tokencredit.statistics.curves import at_level, mean, running_mean
from tokencredit.statistics.intervals import Interval, mean_ci, paired_difference
from tokencredit.statistics.rounding import rounded, with_interval

LEVELS: Final = (2.0, 5.0, 10.0, 15.0)
"""Nats at which methods are compared."""
GRID: Final = 60
"""Levels at which a frontier is drawn."""
DASH: Final = "–"
HELD_OUT: Final = "oracle"
"""A panel's column of the oracle's ratings on held-out prompts, of which a run has one."""
GOLD: Final = "gold"
"""A panel's column of the same ratings in evaluations on the way, at their own KL."""
MODELS: Final = ("sft", "dpo")
"""Models beside the policy that an evaluation may hold; the first is where KL is 0."""


def at_levels(
    runs: Sequence[LoggedRun], levels: Sequence[float], column: str = "mean_reward"
) -> list[dict[int, float]]:
    """For each level, in nats, the paid score there of every run that comes to it, by run."""
    found: list[dict[int, float]] = [{} for _ in levels]
    for run in runs:
        kl, score = run.columns.get("kl", ()), run.columns.get(column, ())
        if not kl or len(kl) != len(score) or not all(map(math.isfinite, [*kl, *score])):
            continue
        for values, level in zip(found, levels, strict=True):
            value = at_level(kl, score, level)
            if value is not None:
                values[run.run] = value
    return found


def support(runs: Sequence[object]) -> int:
    """How many of some runs must come to a level for their mean there: half, at least two."""
    return max(2, math.ceil(len(runs) / 2))


def reach(run: LoggedRun) -> float:
    """The highest running mean of a run's KL, in nats; 0 without one."""
    kl = run.columns.get("kl", ())
    return max(0.0, *running_mean(kl, LAST)) if kl and all(map(math.isfinite, kl)) else 0.0


def frontier(
    runs: Sequence[LoggedRun], *, gold: bool = False
) -> tuple[list[float], list[Interval]]:
    """Levels from 0 as far as half of the runs come, at least two, and the mean score at each.

    `gold`: the oracle's rating of held-out responses on the way, in place of the paid score.
    """
    reached = sorted(map(gold_reach if gold else reach, runs), reverse=True)
    needed = support(reached)
    if len(reached) < needed or reached[needed - 1] == 0:
        return [], []
    levels = np.linspace(0, reached[needed - 1], GRID).tolist()
    found = gold_at_levels(runs, levels) if gold else at_levels(runs, levels)
    there = [mean_ci(list(v.values())) if len(v) >= needed else None for v in found]
    kept = [(level, x) for level, x in zip(levels, there, strict=True) if x is not None]
    return [level for level, _ in kept], [x for _, x in kept]


def other_models(runs: Sequence[LoggedRun], name: str) -> Iterator[tuple[str, float, float, int]]:
    """Of SFT and DPO models: name, mean KL, mean of a held-out measure, and runs that have both."""
    for model in MODELS:
        found = [(held_out(run, f"{model}/kl"), held_out(run, f"{model}/{name}")) for run in runs]
        known = [
            (x or 0.0, y) for x, y in found if y is not None and (x is not None or model == "sft")
        ]
        if known:
            kl, value = (mean([pair[k] for pair in known]) for k in (0, 1))
            yield model, kl, value, len(known)


def equal_kl_tables(source: Source, task: str, baseline: str, beta: float | None = None) -> str:
    """Markdown: the paid score of every setting at `LEVELS`, and its difference to the baseline.

    The baseline of a setting is `baseline`, at that β if one is given, with the same range of
    lengths; differences are of runs of the same number that both come to the level, at least two.
    """
    groups, gone = with_steps(source.of(task))
    head = ["method", "β", "tokens", "n", *(f"at {level:g} nats" for level in LEVELS)]
    there = {setting: at_levels(runs, LEVELS) for setting, runs in groups.items()}
    rows, apart = [], []
    for setting, values in there.items():
        fixed = named_cells(setting)
        n = len(groups[setting])
        rows.append([*fixed, str(n), *(_mean(level, n) for level in values)])
        other = baseline_of(groups, setting, baseline, beta)
        if other is not None and other != setting:
            apart.append(
                [*fixed, *(_apart(a, b) for a, b in zip(values, there[other], strict=True))]
            )
    name = baseline if beta is None else f"{baseline}, β = {beta:g}"
    scores = (
        "Paid score, for which the policy was trained, where a run first comes to that KL (running "
        "means over ten steps): mean over the runs that do, with 95 % t interval. In parentheses "
        "how many they are, if not all."
    )
    differences = (
        f"The same minus that of {name}, over pairs of runs that both come there; in parentheses "
        f"their number ({DASH}: fewer than two)."
    )
    tables = markdown(head, rows), markdown([*head[:3], *head[4:]], apart)
    return "\n\n".join(filter(None, [scores, tables[0], differences, tables[1], gone]))


def named_cells(setting: Setting) -> list[str]:
    """The cells by which tables name a setting: method, β, and range of response tokens."""
    beta = "" if setting.beta is None else f"{setting.beta:g}"
    return [setting.method, beta, lengths(setting)]


def baseline_of(
    groups: Mapping[Setting, object], setting: Setting, name: str, beta: float | None
) -> Setting | None:
    """The one setting of the baseline with these lengths; None where there is not exactly one."""
    found = [
        other
        for other in groups
        if other.method == name
        and other.lengths == setting.lengths
        and (beta is None or other.beta == beta)
    ]
    return found[0] if len(found) == 1 else None


def _mean(values: Mapping[int, float], n: int) -> str:
    if not values:
        return DASH
    x = mean_ci(list(values.values()))
    some = f" ({x.n})" if x.n < n else ""
    return (with_interval(x) if x.n > 1 else rounded(x.mean)) + some


def _apart(a: Mapping[int, float], b: Mapping[int, float]) -> str:
    common = sorted(a.keys() & b.keys())
    if len(common) < 2:
        return DASH
    x = paired_difference([a[run] for run in common], [b[run] for run in common]).difference
    return f"{with_interval(x, signed=True)} ({x.n})"

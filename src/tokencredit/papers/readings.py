"""Four readings of one comparison: at equal steps, KL, scored samples, and operations.

All are differences of the gold score, the oracle's rating on held-out prompts. The primary one is
that at equal KL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np

from tokencredit.errors import require
from tokencredit.papers.conduct import operations, scored_before
from tokencredit.papers.formats import markdown
from tokencredit.papers.frontier import DASH, LEVELS, baseline_of, named_cells, support
from tokencredit.papers.on_the_way import at_step, gold_at_levels
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, short_label, with_steps
from tokencredit.statistics.rounding import rounded, with_interval
from tokencredit.statistics.testing import MOST_SEEDS, Difference, compare, holm
from tokencredit.store.run_folder import COMPLETE

STEPS: Final = "equal steps"
KL: Final = "equal KL"
SAMPLES: Final = "equal scored samples"
OPERATIONS: Final = "equal operations"
READINGS: Final = (STEPS, KL, SAMPLES, OPERATIONS)
SIDES: Final = {1: "higher", -1: "lower", 0: "not decided"}
SMALLEST: Final = 1e-4
"""p-values below are said to be."""
Runs = Sequence[LoggedRun]
Spent = Callable[[LoggedRun], Sequence[float] | None]
"""What a run has spent after 0, 1, … steps; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The gold score of one method minus that of another, where both stand equal in something."""

    where: str
    """The level, in words."""
    difference: Difference
    counts: tuple[int, int]
    """Runs of both that have a number there."""
    of: tuple[int, int]
    """Runs of both."""

    def text(self, *, level: bool = True) -> str:
        """The difference with its interval, the level, the correlation, and the runs if not all."""
        x = self.difference
        r = "" if x.correlation is None else f"r = {rounded(x.correlation, 2)}"
        paired = "paired" if x.paired else ""
        few = "" if self.counts == self.of else f"{self.counts[0]} and {self.counts[1]} runs"
        beside = ", ".join(filter(None, (self.where * level, paired, r, few)))
        return with_interval(x.interval, signed=True) + (f" ({beside})" if beside else "")


def readings(own: Runs, other: Runs, level: float | None = None) -> dict[str, Reading | None]:
    """The four readings of two methods, by name; None where cells do not hold what it needs.

    That at equal KL is the one at `level`, one of `LEVELS`; None: at the highest that has one.
    """
    found = dict(zip(LEVELS, at_equal_kl(own, other), strict=True))
    there = [reading for reading in found.values() if reading is not None]
    highest = there[-1] if there else None
    return {
        STEPS: _at_equal(own, other, lambda run: range(len(run) + 1), STEPS),
        KL: highest if level is None else found[level],
        SAMPLES: _at_equal(own, other, samples_spent, SAMPLES),
        OPERATIONS: _at_equal(own, other, operations_spent, OPERATIONS),
    }


def at_equal_kl(own: Runs, other: Runs) -> list[Reading | None]:
    """The readings at each of `LEVELS`; None unless half of each method's runs, at least two, come
    there."""
    found = []
    for level, a, b in zip(
        LEVELS, gold_at_levels(own, LEVELS), gold_at_levels(other, LEVELS), strict=True
    ):
        there = len(a) >= support(own) and len(b) >= support(other)
        found.append(_reading(a, b, own, other, f"{level:g} nats") if there else None)
    return found


def samples_spent(run: LoggedRun) -> Sequence[float] | None:
    """Responses scored after 0, 1, … steps of a run."""
    known = scored_before(run)
    return None if known is None else [known[0] + k * known[1] for k in range(len(run) + 1)]


def operations_spent(run: LoggedRun) -> Sequence[float] | None:
    """Operations needed after 0, 1, … steps of a run, those of the stages before it aside."""
    total = operations(run)
    return None if total is None else [0.0, *accumulate(run.columns["flops"])]


def _at_equal(own: Runs, other: Runs, spent: Spent, unit: str) -> Reading | None:
    """The reading where all have spent as much as the most frugal of the complete runs has."""
    totals = [_totals(runs, spent) for runs in (own, other)]
    if not all(totals):
        return None
    budget = min(map(min, totals))
    a, b = (_at_budget(runs, spent, budget) for runs in (own, other))
    shown = f"{budget:.2g}" if unit == OPERATIONS else f"{budget:,.0f}"
    if unit == STEPS and max(map(max, totals)) == budget:
        return _reading(a, b, own, other, "")  # all of them: nothing to be said
    return _reading(a, b, own, other, f"{shown} {unit.rpartition(' ')[2]}")


def _totals(runs: Runs, spent: Spent) -> list[float]:
    """What each complete run has spent in all, as far as that is known."""
    courses = [spent(run) for run in runs if run.status == COMPLETE]
    return [course[-1] for course in courses if course is not None]


def _at_budget(runs: Runs, spent: Spent, budget: float) -> dict[int, float]:
    """The gold scores of runs when they have spent the budget, by run."""
    found = {run.run: _gold_at(run, spent(run), budget) for run in runs}
    return {run: x for run, x in found.items() if x is not None}


def _gold_at(run: LoggedRun, spent: Sequence[float] | None, budget: float) -> float | None:
    """The gold score of a run when it has spent the budget, linear between evaluations.

    None before its first step: what it has spent by then was not spent on the policy yet.
    """
    if spent is None or not spent[0] <= budget <= spent[-1]:
        return None
    return at_step(run, float(np.interp(budget, spent, range(len(spent)))))


def _reading(
    a: Mapping[int, float], b: Mapping[int, float], own: Runs, other: Runs, where: str
) -> Reading | None:
    difference = compare(a, b)
    if difference is None:
        return None
    return Reading(where, difference, (len(a), len(b)), (len(own), len(other)))


HIGHEST: Final = "the highest level to which half of the runs of both come"
LEGEND: Final = (
    "Gold score (the oracle's rating of held-out responses) minus that of {baseline}, in four "
    "readings: at equal steps; at equal KL to the model both began with, where each first comes "
    "to 2, 5, 10, or 15 nats (the table has {level}; all levels below); "
    "when as many responses have been scored, labelled pairs included (no "
    "number where a method labels more before its first step than the other scores in all); "
    "and when as many operations were needed, without the stages before. "
    "**Primary is the reading at equal KL.** 95 % t intervals over seeds: Welch's, or paired where "
    "the correlation r over seeds is above zero by its own test. p is that of the primary reading, "
    "{corrected}. Last, how many seeds of each method would decide a difference as large "
    "as the observed one with a chance of 80 %, from the observed spread. {dash}: the cells do not "
    "hold it, or too few runs come there."
)


def readings_table(
    source: Source,
    task: str,
    baseline: str,
    beta: float | None = None,
    primary: str | None = None,
    level: float | None = None,
) -> str:
    """Markdown: the four readings of every method against a baseline, and where they disagree.

    `primary` names the method of the comparison that was declared before the runs, `level` its KL
    in nats, one of `LEVELS`: its p-value is not corrected for those of the others. The baseline of
    a method has the same range of lengths. Raises `UserError` for another level.
    """
    known = ", ".join(f"{other:g}" for other in LEVELS)
    require(level is None or level in LEVELS, "level", level, f"must be one of {known} nats")
    groups, gone = with_steps(source.of(task))
    pairs = _pairs(groups, baseline, beta)
    if not pairs:
        return f"*There is nothing to compare with {baseline} yet.*"
    found = {setting: readings(own, other, level) for setting, (own, other) in pairs.items()}
    adjusted = _adjusted(found, primary)
    head = ["method", "β", "tokens", "n", *READINGS, "p", "seeds at equal KL", "at equal steps"]
    rows = [
        [
            *named_cells(setting),
            str(len(pairs[setting][0])),
            *map(_text, (by_name[name] for name in READINGS)),
            adjusted.get(setting, DASH),
            *(_seeds(by_name[name]) for name in (KL, STEPS)),
        ]
        for setting, by_name in found.items()
    ]
    if primary is None:
        corrected = "corrected for their number by Holm's method"
    else:
        corrected = f"for {primary}, the comparison declared before the runs, as it is, for the "
        corrected += "others corrected for their number by Holm's method"
    name = baseline if beta is None else f"{baseline}, β = {beta:g}"
    named = ", named before the runs" if primary is not None else ""
    shown = HIGHEST if level is None else f"{level:g} nats{named}"
    legend = LEGEND.format(baseline=name, corrected=corrected, dash=DASH, level=shown)
    levels = [[*named_cells(s), *map(_text, at_equal_kl(*pair))] for s, pair in pairs.items()]
    by_level = markdown([*head[:3], *(f"at {level:g} nats" for level in LEVELS)], levels)
    parts = [legend, markdown(head, rows), disagreement(found), by_level, gone]
    return "\n\n".join(filter(None, parts))


def disagreement(found: Mapping[Setting, Mapping[str, Reading | None]]) -> str:
    """In words: which methods' readings disagree, and what the primary one says of them.

    Two readings disagree where one decides and the other does not, or does for the other side.
    """
    by_sides: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for setting, by_name in found.items():
        sides = tuple((n, r.difference.decided) for n, r in by_name.items() if r is not None)
        by_sides.setdefault(sides, []).append(short_label(setting, found))
    said, agree = [], []
    for sides, methods in by_sides.items():
        names, words = ", ".join(methods), {word for _, word in sides}
        if len(sides) < 2:
            said.append(f"{names}: fewer than two readings can be made.")
        elif len(words) == 1:
            agree.append(f"{names} ({SIDES[sides[0][1]]})")
        else:
            parts = f"{_by_side(dict(sides))}; {_of_primary(dict(sides))}"
            said.insert(0, f"**The readings disagree on {names}**: {parts}.")
    if agree:
        said.append(f"The readings that there are agree on {'; '.join(agree)}.")
    listed = "\n".join(f"- {sentence}" for sentence in said)
    return f"Each interval by itself, before p is corrected:\n\n{listed}"


def _by_side(sides: Mapping[str, int]) -> str:
    """`higher at equal steps and equal operations, not decided at equal KL`."""
    parts = []
    for side, word in SIDES.items():
        names = [name for name, found in sides.items() if found == side]
        if names:
            listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
            parts.append(f"{word} at {listed}")
    return ", ".join(parts)


def _of_primary(sides: Mapping[str, int]) -> str:
    if KL not in sides:
        return "the primary reading, equal KL, cannot be made of these cells"
    if sides[KL] == 0:
        return "the primary reading, equal KL, does not decide"
    return f"by the primary reading, equal KL, it is {SIDES[sides[KL]]}"


def _pairs(
    groups: Mapping[Setting, Runs], baseline: str, beta: float | None
) -> dict[Setting, tuple[Runs, Runs]]:
    """The runs of every setting, and of its baseline; without settings that have none."""
    others = {setting: baseline_of(groups, setting, baseline, beta) for setting in groups}
    return {
        setting: (groups[setting], groups[other])
        for setting, other in others.items()
        if other is not None and other != setting
    }


def _adjusted(
    found: Mapping[Setting, Mapping[str, Reading | None]], primary: str | None
) -> dict[Setting, str]:
    """p-values of the primary reading as they are shown."""
    known = {s: r.difference.p for s, by_name in found.items() if (r := by_name[KL]) is not None}
    rest = [setting for setting in known if setting.method != primary]
    corrected = dict(zip(rest, holm([known[setting] for setting in rest]), strict=True))
    shown = {setting: corrected.get(setting, p) for setting, p in known.items()}
    return {s: f"{p:.2g}" if p >= SMALLEST else f"< {SMALLEST:g}" for s, p in shown.items()}


def _text(reading: Reading | None) -> str:
    return DASH if reading is None else reading.text()


def _seeds(reading: Reading | None) -> str:
    """The number of seeds that would decide, as it is shown."""
    if reading is None:
        return DASH
    seeds = reading.difference.seeds()
    return f"more than {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"

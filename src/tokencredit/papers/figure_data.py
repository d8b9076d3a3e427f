"""What a figure shows, as numbers: its CSV is written and its picture drawn from the same marks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np

from tokencredit.errors import UserError
from tokencredit.papers.entries import Entry, Panel
from tokencredit.papers.frontier import HELD_OUT, frontier, held_out, other_models
from tokencredit.papers.measures import LAST, curves, fell, in_words, lacking, measure
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source
from tokencredit.papers.tables import missing, name_of, said_of, settings_of
from tokencredit.statistics.curves import mean, running_mean
from tokencredit.store.run_folder import COMPLETE


class Shape(str, Enum):
    """How a mark is drawn."""

    line = "line"
    """The middle of several runs, with a band where there is a spread."""
    run = "run"
    """One run beside the others."""
    stopped = "stopped"
    """A run that ended early or failed, to its last point."""
    end = "end"
    """Where one run ended."""
    diverged = "diverged"
    """Where a run ended that the authors' code would have dropped, or that fell below its start."""
    point = "point"
    """The middle of several runs at one β."""
    dot = "dot"
    """One run, at one β or at its distance."""
    model = "model"
    """A model that is no run's: SFT, DPO."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something drawn in one panel of one source, for one method."""

    source: str
    panel: str
    method: str
    name: str
    """The method as the legend has it."""
    shape: Shape
    what: str
    """mean, median, or the run."""
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float]
    """Half the height of the band, for each x; empty without one."""
    n: int
    """Runs behind it."""


def as_text(name: str) -> str:
    """A name as matplotlib shows it: it takes dollars for formulas, and hides a leading stroke."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


BY_KL: Final = ("tradeoff", "frontier")
"""Figures whose x is a distance."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one setting in one panel."""

    entry: Entry
    panel: Panel
    source: str
    setting: Setting
    name: str
    runs: Sequence[LoggedRun]

    @property
    def points(self) -> int:
        """How many first steps are used."""
        return self.panel.points_of(self.runs[0])

    def mark(
        self,
        shape: Shape,
        what: str,
        x: Sequence[float],
        y: Sequence[float],
        spread: Sequence[float] = (),
        n: int = 1,
    ) -> Mark:
        """A mark of this group."""
        where = (self.source, self.panel.title, self.setting.method, self.name)
        return Mark(*where, shape, what, x, y, spread, n)


def figure_marks(
    entry: Entry, sources: Sequence[Source], points: int | None = None
) -> tuple[list[Mark], list[str]]:
    """Everything that a figure shows, and what must be said beside it."""
    panels = [replace(p, points=points) if points is not None else p for p in entry.panels]
    lost = [text for panel in panels for text in missing(entry, panel, sources)]
    groups = [g for source in sources for panel in panels for g in _groups(entry, panel, source)]
    if not groups:
        why = "; ".join(lost)
        raise UserError(f"{entry.title}: there is nothing to draw: {why}; give others with --runs")
    if all(lacking_column(group) for group in groups):
        raise UserError(f"{entry.title}: {lacking_column(groups[0])}; nothing can be drawn")
    said = list(dict.fromkeys([*(lost if entry.own else []), *_remarks(entry, sources, groups)]))
    marks = _marks(entry, groups)
    if not marks:
        raise UserError(f"{entry.title}: nothing can be drawn: {'; '.join(said)}")
    return marks, said


def _marks(entry: Entry, groups: Sequence[Group]) -> list[Mark]:
    """What is drawn of each group; in a frontier with runs, the models that are no run's, too."""
    marks = [mark for group in groups for mark in MARKS[entry.kind](group)]
    return [*marks, *_model_marks(groups)] if entry.kind == "frontier" and marks else marks


def _remarks(entry: Entry, sources: Sequence[Source], groups: Sequence[Group]) -> Iterator[str]:
    """Runs that are not in a mean, and what of each source is not shown."""
    for group in groups:
        yield from _said(group)
    for source in sources:
        yield from _said_of_source(entry, source, groups)


def _said_of_source(entry: Entry, source: Source, groups: Sequence[Group]) -> Iterator[str]:
    """What of a source is not shown, and why."""
    yield from said_of(source, entry)
    shown = {group.panel.title for group in groups if group.source == source.name}
    absent = [panel.title for panel in entry.panels if panel.title not in shown]
    if absent and shown and not entry.own:  # of one's own, it is said with the reason
        yield f"{source.name}: no runs for {', '.join(absent)}"


def lacking_column(group: Group) -> str:
    """Which column none of the runs has; empty if there is nothing amiss."""
    for column in _columns(group):
        if all(column not in run.columns for run in group.runs):
            return f"the runs of {group.source} have no {column} column"
    return ""


def _columns(group: Group) -> list[str]:
    if group.panel.column == HELD_OUT:
        return ["mean_reward"]
    return ["mean_reward", "kl"] if group.entry.kind in BY_KL else [group.panel.column]


def _groups(entry: Entry, panel: Panel, source: Source) -> Iterator[Group]:
    for method in entry.methods:
        settings = settings_of(panel, source, method)
        for setting, runs in settings.items():
            among = [] if entry.kind == "by_beta" else list(settings)
            name = name_of(entry, method, setting, among)
            yield Group(entry, panel, source.name, setting, name, runs)


def _said(group: Group) -> list[str]:
    """The runs of a group that are not part of its mean."""
    without = [
        (run.run, reason)
        for run in group.runs
        if (
            reason := next(
                filter(None, (lacking(run, group.points, c) for c in _columns(group))), ""
            )
        )
    ]
    name = ", ".join(filter(None, (group.source, group.panel.title, group.name)))
    return [f"{name}, not in the mean: {text}" for text in in_words(without)]


def _curve_marks(group: Group) -> Iterator[Mark]:
    """Mean and spread over runs, and the runs that must be seen by themselves."""
    column = group.panel.column
    seeds = curves(group.runs, group.points, column)
    smooth = group.entry.smooth
    steps = list(range(group.points))
    if len(seeds):
        spread = seeds.std(axis=0, ddof=0)
        if group.entry.band == "se":
            spread = seeds.std(axis=0, ddof=1 if len(seeds) > 1 else 0) / np.sqrt(len(seeds))
        middle = running_mean(seeds.mean(axis=0).tolist(), smooth)
        band = running_mean(spread.tolist(), smooth)
        yield group.mark(Shape.line, "mean", steps, middle, band, len(seeds))
    for run in group.runs:
        values = run.columns.get(column, ())[: group.points]
        whole = run.first(group.points, column) is not None
        if values and (not whole or group.setting.method in group.entry.individual):
            shape = Shape.run if whole else Shape.stopped
            x = list(range(len(values)))
            yield group.mark(shape, f"run {run.run}", x, running_mean(values, smooth))


def _tradeoff_marks(group: Group) -> Iterator[Mark]:
    """The median path of reward over KL, and where every single run ended."""
    points, smooth = group.points, group.entry.smooth
    whole = [
        run for run in group.runs if not lacking(run, points) and not lacking(run, points, "kl")
    ]
    if whole:
        middle = [
            running_mean(np.median(curves(whole, points, column), axis=0).tolist(), smooth)
            for column in ("kl", "mean_reward")
        ]
        yield group.mark(Shape.line, "median", middle[0], middle[1], n=len(whole))
    for run in group.runs:
        if "kl" not in run.columns:
            continue
        kl, reward = (run.columns[column][:points] for column in ("kl", "mean_reward"))
        if not kl or not math.isfinite(mean(kl[-LAST:]) + mean(reward[-LAST:])):
            continue  # said among the runs that are not in the median
        bad = run not in whole or kl[-1] <= 0 or fell(run, points) or run.status != COMPLETE
        shape = Shape.diverged if bad else Shape.end
        yield group.mark(shape, f"run {run.run}", [mean(kl[-LAST:])], [mean(reward[-LAST:])])


def _frontier_marks(group: Group) -> Iterator[Mark]:
    """Mean paid score at each distance with its 95 % t interval; or the oracle's, a point a run."""
    if group.panel.column == HELD_OUT:
        for run in group.runs:
            x, y = held_out(run, "policy/kl"), held_out(run, "policy/oracle")
            if x is not None and y is not None:
                yield group.mark(Shape.dot, f"run {run.run}", [x], [y])
        return
    levels, there = frontier(group.runs)
    if levels:
        half = [x.high - x.mean for x in there]
        yield group.mark(Shape.line, "mean", levels, [x.mean for x in there], half, there[0].n)


def _model_marks(groups: Sequence[Group]) -> Iterator[Mark]:
    """SFT and DPO models in each panel of a frontier, as the runs' evaluations have them."""
    for source, panel in dict.fromkeys((g.source, g.panel.title) for g in groups):
        own = [g for g in groups if (g.source, g.panel.title) == (source, panel)]
        name = HELD_OUT if own[0].panel.column == HELD_OUT else "score"
        for model, x, y, n in other_models([run for g in own for run in g.runs], name):
            yield Mark(source, panel, model, model.upper(), Shape.model, "mean", [x], [y], (), n)


def _beta_marks(group: Group) -> Iterator[Mark]:
    """The mean of a run's first points at its β: every run, and their mean and spread."""
    if group.setting.beta is None:
        return
    x = [group.setting.beta]
    values = measure(group.runs, group.panel).values
    for run in group.runs:
        logged = run.columns.get(group.panel.column, ())[: group.points]
        value = values.get(run.run, mean(logged) if logged else math.nan)
        if math.isfinite(value):
            shape = Shape.dot if run.run in values else Shape.diverged
            yield group.mark(shape, f"run {run.run}", x, [value])
    if values:
        found = np.array(list(values.values()))
        spread = [float(found.std(ddof=0))]
        yield group.mark(Shape.point, "mean", x, [float(found.mean())], spread, len(found))


MARKS: Final[Mapping[str, Callable[[Group], Iterator[Mark]]]] = {
    "curves": _curve_marks,
    "tradeoff": _tradeoff_marks,
    "frontier": _frontier_marks,
    "by_beta": _beta_marks,
}

"""The kinds of figures: what each draws of runs, and how it looks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from tokencredit.errors import require
from tokencredit.papers.entries import Panel
from tokencredit.papers.figure_data import (
    COLUMNS,
    WAY_COLUMNS,
    FigureEntry,
    Group,
    Look,
    Mark,
    Shape,
)
from tokencredit.papers.frontier import GOLD, HELD_OUT, frontier, other_models
from tokencredit.papers.measures import LAST, curves, fell, held_out, lacking, measure
from tokencredit.papers.on_the_way import together
from tokencredit.papers.sources import Source
from tokencredit.reports.figures import COLOURS
from tokencredit.statistics.curves import mean, running_mean
from tokencredit.statistics.intervals import mean_ci
from tokencredit.store.run_folder import COMPLETE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KL: Final = "KL to the reference (nats per response)"
BANDS: Final = {"sd": "1 standard deviation", "se": "1 standard error"}
GUIDE: Final[Look] = {
    "color": "#777777",
    "linestyle": (0, (4, 3)),
    "linewidth": 1.2,
}
"""The line y = guide · x."""


@dataclass(slots=True, kw_only=True)
class Curves(FigureEntry):
    """A column of runs over their steps: the mean, and how far they lie apart."""

    kind: ClassVar[str] = "curves"
    axes: ClassVar[tuple[str, str]] = ("step", "reward")

    band: str = "sd"
    """sd, the spread over runs (ddof 0), or se, the standard error of the mean."""
    individual: list[str] = field(default_factory=list)
    """Methods of which every run is drawn."""

    def __post_init__(self) -> None:
        """Check the band."""
        FigureEntry.__post_init__(self)
        require(self.band in BANDS, "band", self.band, f"must be one of {', '.join(BANDS)}")

    def marks(self, group: Group) -> Iterator[Mark]:
        """Mean and spread over runs, and the runs that must be seen by themselves."""
        column = group.panel.column
        seeds = curves(group.runs, group.points, column)
        smooth = self.smooth
        steps = list(range(group.points))
        if len(seeds):
            spread = seeds.std(axis=0, ddof=0)
            if self.band == "se":
                spread = seeds.std(axis=0, ddof=1 if len(seeds) > 1 else 0) / np.sqrt(len(seeds))
            middle = running_mean(seeds.mean(axis=0).tolist(), smooth)
            band = running_mean(spread.tolist(), smooth)
            yield group.mark(Shape.line, "mean", steps, middle, band, len(seeds))
        for run in group.runs:
            values = run.columns.get(column, ())[: group.points]
            whole = run.first(group.points, column) is not None
            if values and (not whole or group.setting.method in self.individual):
                shape = Shape.run if whole else Shape.stopped
                x = list(range(len(values)))
                yield group.mark(shape, f"run {run.run}", x, running_mean(values, smooth))

    def spread(self, runs: str) -> str:
        """The mean, and its band."""
        return f"mean of {runs} ± {BANDS[self.band]}"

    def across(self) -> str:
        """Steps, and over how many of them is averaged."""
        return self.axes[0] + (f" (running mean over {self.smooth})" if self.smooth > 1 else "")

    def height(self, column: str) -> str:
        """The column."""
        return COLUMNS.get(column, column)

    def frame(self, axes: Axes, marks: Sequence[Mark]) -> None:
        """Steps from 0 to the last."""
        from matplotlib.ticker import MaxNLocator

        axes.set_xlim(0, max(1.0, 1.005 * max(max(mark.x) for mark in marks)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


@dataclass(slots=True, kw_only=True)
class Tradeoff(FigureEntry):
    """Reward over distance from the reference, as runs move away from it."""

    kind: ClassVar[str] = "tradeoff"
    axes: ClassVar[tuple[str, str]] = (KL, "reward")
    stopped: ClassVar[str] = "end of a run that stopped, fell, or has KL ≤ 0"

    guide: float | None = None
    """The slope of a dashed line."""

    def columns(self, panel: Panel) -> list[str]:
        """Those of x and y, whatever the panel's."""
        return columns_by_kl(panel)

    def marks(self, group: Group) -> Iterator[Mark]:
        """The median path of reward over KL, and where every single run ended."""
        points, smooth = group.points, self.smooth
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

    def spread(self, runs: str) -> str:
        """The median path."""
        return f"median path of {runs}"

    def frame(self, axes: Axes, marks: Sequence[Mark]) -> None:
        """Limits that show the paths; a run that ended outside is drawn at the edge, with its
        KL."""
        low, high = _limits(axes, marks)
        if self.guide is not None:
            ends = [max(0.0, low), high]
            axes.plot(ends, [self.guide * x for x in ends], zorder=1, **GUIDE)
            axes.set_xlim(low, high)
        for place, method in enumerate(self.methods):
            away = [
                mark for mark in marks if mark.shape is Shape.diverged and mark.method == method
            ]
            colour = COLOURS[place % len(COLOURS)]
            _outside(axes, [mark for mark in away if mark.x[0] < low], low, "left", colour)
            _outside(axes, [mark for mark in away if mark.x[0] > high], high, "right", colour)

    def signs(self) -> Iterator[tuple[str, Look]]:
        """The dashed line."""
        if self.guide is not None:
            yield f"y = {self.guide:g} x", GUIDE


@dataclass(slots=True, kw_only=True)
class Frontier(FigureEntry):
    """The paid score at equal distance from the reference, and other models' beside it."""

    kind: ClassVar[str] = "frontier"
    axes: ClassVar[tuple[str, str]] = (KL, "paid score")

    def columns(self, panel: Panel) -> list[str]:
        """Those of x and y, whatever the panel's."""
        return columns_by_kl(panel)

    def marks(self, group: Group) -> Iterator[Mark]:
        """Mean paid or gold score at each distance with its 95 % t interval; or the oracle's at the
        end, a point a run."""
        if group.panel.column == HELD_OUT:
            for run in group.runs:
                x, y = held_out(run, "policy/kl"), held_out(run, "policy/oracle")
                if x is not None and y is not None:
                    yield group.mark(Shape.dot, f"run {run.run}", [x], [y])
            return
        levels, there = frontier(group.runs, gold=group.panel.column == GOLD)
        if levels:
            half = [x.high - x.mean for x in there]
            yield group.mark(Shape.line, "mean", levels, [x.mean for x in there], half, there[0].n)

    def beside(self, groups: Sequence[Group]) -> Iterator[Mark]:
        """SFT and DPO models in each panel of a frontier, as the runs' evaluations have them."""
        for source, panel in dict.fromkeys((g.source, g.panel.title) for g in groups):
            own = [g for g in groups if (g.source, g.panel.title) == (source, panel)]
            name = HELD_OUT if own[0].panel.column in {HELD_OUT, GOLD} else "score"
            for model, x, y, n in other_models([run for g in own for run in g.runs], name):
                yield Mark(
                    source, panel, model, model.upper(), Shape.model, "mean", [x], [y], (), n
                )

    def absent(self, sources: Sequence[Source]) -> str:
        """No run has evaluations on the way, or no method has two runs, and no panel is drawn
        without them."""
        if any(panel.column == HELD_OUT for panel in self.panels):
            return ""
        alone = all(panel.column == GOLD for panel in self.panels)
        lacking = without_evaluations(self, sources) if alone else ""
        if lacking:
            return lacking
        shown = [run.setting for source in sources for run in source.runs if len(run)]
        numbers = Counter(setting for setting in shown if self.shows(setting))
        several = any(number > 1 for number in numbers.values()) or not numbers
        return "" if several else "no method has two runs, which an interval needs"

    def spread(self, runs: str) -> str:
        """The mean and its interval."""
        return f"mean of {runs} with 95 % t interval"


@dataclass(slots=True, kw_only=True)
class OnTheWay(FigureEntry):
    """Held-out measures during training over steps: paid score and gold score part company."""

    kind: ClassVar[str] = "on_the_way"
    axes: ClassVar[tuple[str, str]] = ("step", "held-out prompts")

    def __post_init__(self) -> None:
        """Check the columns."""
        FigureEntry.__post_init__(self)
        for panel in self.panels:
            known = panel.column in WAY_COLUMNS
            require(known, "column", panel.column, f"must be one of {', '.join(WAY_COLUMNS)}")

    def columns(self, panel: Panel) -> list[str]:
        """No column of steps; evaluations are apart from them."""
        return ["mean_reward"]

    def marks(self, group: Group) -> Iterator[Mark]:
        """Mean at each evaluation that all runs have, with its 95 % t interval."""
        steps, values = together(group.runs, group.panel.column)
        if steps:
            there = [mean_ci([of_run[place] for of_run in values]) for place in range(len(steps))]
            half = [x.high - x.mean for x in there]
            middle = [x.mean for x in there]
            yield group.mark(Shape.line, "mean", steps, middle, half, len(values))

    def height(self, column: str) -> str:
        """The measure."""
        return WAY_COLUMNS[column]

    def absent(self, sources: Sequence[Source]) -> str:
        """No run has evaluations on the way."""
        return without_evaluations(self, sources)

    def spread(self, runs: str) -> str:
        """The mean and its interval."""
        return f"mean of {runs} with 95 % t interval"


def without_evaluations(entry: FigureEntry, sources: Sequence[Source]) -> str:
    """Whether no run of an entry has evaluations on the way, in words; else empty."""
    shown = [run for source in sources for run in source.runs if entry.shows(run.setting)]
    there = any(run.origin.on_the_way for run in shown)
    return "" if there or not shown else "no cell holds evaluations on the way (evaluation.every)"


@dataclass(slots=True, kw_only=True)
class ByBeta(FigureEntry):
    """The mean of a run's first points at its β."""

    kind: ClassVar[str] = "by_beta"
    axes: ClassVar[tuple[str, str]] = ("β", "mean reward")
    tells_settings_apart: ClassVar[bool] = False
    legend: ClassVar[Look] = {"linestyle": "none", "marker": "o", "markersize": 7}

    def marks(self, group: Group) -> Iterator[Mark]:
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

    def spread(self, runs: str) -> str:
        """The mean and the spread over runs."""
        return f"mean of {runs} ± {BANDS['sd']}"


def columns_by_kl(panel: Panel) -> list[str]:
    """What runs of a panel over distance must have; held-out prompts are no column of steps."""
    held_out_alone = panel.column in {HELD_OUT, GOLD}
    return ["mean_reward"] if held_out_alone else ["mean_reward", "kl"]


def _limits(axes: Axes, marks: Sequence[Mark]) -> tuple[float, float]:
    """Set the limits by the runs that did not diverge, if there are such; those of x."""
    inside = [mark for mark in marks if mark.shape is not Shape.diverged] or list(marks)
    xs, ys = [x for m in inside for x in m.x], [y for m in inside for y in m.y]
    pad_x, pad_y = 0.08 * (max(xs) - min(xs) or 1), 0.1 * (max(ys) - min(ys) or 1)
    low, high = min(0.0, *xs) - pad_x, max(xs) + pad_x
    bottom = min([*ys, *(y for m in marks for y in m.y)]) - pad_y
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, max(ys) + pad_y)
    return low, high


def _outside(axes: Axes, marks: Sequence[Mark], edge: float, side: str, colour: str) -> None:
    """Runs that ended beyond an edge, drawn at it with their KL."""
    if marks:
        ys = [mark.y[0] for mark in marks]
        axes.plot([edge] * len(marks), ys, "X", color=colour, clip_on=False, markersize=8)
        listed = ", ".join(f"{mark.x[0]:.0f}".replace("-", "−") for mark in marks)
        look: Any = {"color": colour, "ha": side, "va": "bottom", "fontsize": 8.5}
        axes.text(edge, max(ys), f"  KL {listed}  ", **look)

"""What a figure shows, as numbers: its CSV is written and its picture drawn from the same marks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.papers.entries import (
    Panel,
    PanelEntry,
    missing,
    name_of,
    said_of,
    settings_of,
)
from tokencredit.papers.frontier import GOLD, HELD_OUT
from tokencredit.papers.measures import in_words, lacking
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Look = Mapping[str, Any]
"""What matplotlib is told of a line."""


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


COLUMNS: Final = {
    "mean_reward": "reward",
    "value_loss": "value loss",
    "kl": "KL (nats)",
    "implicit_reward": "implicit reward",
    "oracle": "oracle's rating, held-out prompts",
    "gold": "oracle's rating, held-out prompts",
}
WAY_COLUMNS: Final = {
    "score": "paid score",
    "oracle": "oracle's rating",
    "kl": "KL (nats)",
    "distinct_2": "distinct-2",
    "length": "length (tokens)",
    "perplexity": "perplexity of the data's answers",
    "perplexity_sft": "perplexity under the SFT model",
}
"""What evaluations on the way measure, as a figure names it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one setting in one panel."""

    entry: FigureEntry
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


@dataclass(slots=True, kw_only=True)
class FigureEntry(PanelEntry):
    """A kind of figures: which marks it draws of runs, and how it looks."""

    command: ClassVar[str] = "figure"
    axes: ClassVar[tuple[str, str]]
    """What x and y show."""
    tells_settings_apart: ClassVar[bool] = True
    """Whether several settings of a method have names of their own."""
    legend: ClassVar[Look] = {}
    """How the legend shows a method, where it is not by a line."""
    stopped: ClassVar[str] = "stopped early"
    """What the sign of a run that is not in the mean says."""

    smooth: int = 1
    """Of curves and trade-offs: the width of a running mean over what is drawn."""

    def __post_init__(self) -> None:
        """Check the width."""
        PanelEntry.__post_init__(self)
        require(self.smooth >= 1, "smooth", self.smooth, "must be >= 1 step")

    @abstractmethod
    def marks(self, group: Group) -> Iterator[Mark]:
        """What is drawn of runs of one setting in one panel."""

    def beside(self, groups: Sequence[Group]) -> Iterator[Mark]:
        """What is drawn beside the runs of all groups."""
        del groups
        return iter(())

    def columns(self, panel: Panel) -> list[str]:
        """The columns that runs of a panel must have."""
        return [panel.column]

    @abstractmethod
    def spread(self, runs: str) -> str:
        """What the middle of so many runs is, and what is drawn around it."""

    def across(self) -> str:
        """What the x axis says."""
        return self.axes[0]

    def height(self, column: str) -> str:
        """What the y axis of a panel of this column says."""
        return COLUMNS[column] if column in {HELD_OUT, GOLD} else self.axes[1]

    def absent(self, sources: Sequence[Source]) -> str:
        """Why runs that are there cannot be drawn yet, as those of before there was such a figure;
        empty where they can."""
        del sources
        return ""

    def frame(self, axes: Axes, marks: Sequence[Mark]) -> None:
        """Set what a drawn panel shows."""

    def signs(self) -> Iterator[tuple[str, Look]]:
        """Further signs for the legend, each with how it looks."""
        return iter(())


def figure_marks(
    entry: FigureEntry, sources: Sequence[Source], points: int | None = None
) -> tuple[list[Mark], list[str]]:
    """Everything that a figure shows, and what must be said beside it."""
    panels = entry.with_points(points)
    lost = [text for panel in panels for text in missing(entry, panel, sources)]
    groups = [g for source in sources for panel in panels for g in _groups(entry, panel, source)]
    if not groups:
        why = "; ".join(lost)
        raise UserError(f"{entry.title}: there is nothing to draw: {why}; give others with --runs")
    if entry.absent(sources):
        raise UserError(f"{entry.title}: {entry.absent(sources)}; give others with --runs")
    if all(lacking_column(group) for group in groups):
        raise UserError(f"{entry.title}: {lacking_column(groups[0])}; nothing can be drawn")
    said = list(dict.fromkeys([*(lost if entry.own else []), *_remarks(entry, sources, groups)]))
    marks = [mark for group in groups for mark in entry.marks(group)]
    if not marks:
        raise UserError(f"{entry.title}: nothing can be drawn: {'; '.join(said)}")
    return [*marks, *entry.beside(groups)], said


def _remarks(
    entry: FigureEntry, sources: Sequence[Source], groups: Sequence[Group]
) -> Iterator[str]:
    """Runs that are not in a mean, and what of each source is not shown."""
    for group in groups:
        yield from _said(group)
    for source in sources:
        yield from _said_of_source(entry, source, groups)


def _said_of_source(entry: FigureEntry, source: Source, groups: Sequence[Group]) -> Iterator[str]:
    """What of a source is not shown, and why."""
    yield from said_of(source, entry)
    shown = {group.panel.title for group in groups if group.source == source.name}
    absent = [panel.title for panel in entry.panels if panel.title not in shown]
    if absent and shown and not entry.own:  # of one's own, it is said with the reason
        yield f"{source.name}: no runs for {', '.join(absent)}"


def lacking_column(group: Group) -> str:
    """Which column none of the runs has; empty if there is nothing amiss."""
    for column in group.entry.columns(group.panel):
        if all(column not in run.columns for run in group.runs):
            return f"the runs of {group.source} have no {column} column"
    return ""


def _groups(entry: FigureEntry, panel: Panel, source: Source) -> Iterator[Group]:
    for method in entry.methods:
        settings = settings_of(panel, source, method)
        for setting, runs in settings.items():
            among = list(settings) if entry.tells_settings_apart else []
            name = name_of(entry, method, setting, among)
            yield Group(entry, panel, source.name, setting, name, runs)


def _said(group: Group) -> list[str]:
    """The runs of a group that are not part of its mean."""
    without = [
        (run.run, reason)
        for run in group.runs
        if (
            reason := next(
                filter(
                    None, (lacking(run, group.points, c) for c in group.entry.columns(group.panel))
                ),
                "",
            )
        )
    ]
    name = ", ".join(filter(None, (group.source, group.panel.title, group.name)))
    return [f"{name}, not in the mean: {text}" for text in in_words(without)]

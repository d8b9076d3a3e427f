"""The rows of a table, of each setting the numbers with intervals; and why rows are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokencredit.errors import UserError
from tokencredit.papers.entries import Entry, Panel
from tokencredit.papers.measures import Measured, in_words, measure
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, label, lengths, notes
from tokencredit.statistics.intervals import (
    Interval,
    PairedTest,
    authors_interval,
    mean_ci,
    paired_difference,
)

Condition = tuple[str, Callable[[Setting], bool], Callable[[Setting], str]]
"""A condition as it stands in the entry, whether a setting meets it, and what the setting has."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method in one panel, from one source; without runs only the paper's number."""

    source: str
    panel: str
    method: str
    setting: Setting | None
    points: int
    paper: Sequence[float]
    measured: Measured = field(default_factory=Measured)
    difference: PairedTest | None = None
    """To the baseline, paired by run."""
    scale: str = ""
    key: str = ""
    """The method, by whatever name it is shown."""

    @property
    def n(self) -> int:
        """Runs averaged."""
        return len(self.measured.values)

    @property
    def comparable(self) -> bool:
        """Whether the runs are, as far as is known, of the paper's models and rewards."""
        return self.scale != "cpu"

    @property
    def authors(self) -> tuple[float, float] | None:
        """Mean and half width by the authors' rule."""
        return authors_interval(list(self.measured.values.values())) if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Mean and t interval."""
        return mean_ci(list(self.measured.values.values())) if self.n else None


@dataclass(slots=True)
class Table:
    """A table of the catalogue with the numbers of some runs."""

    entry: Entry
    rows: list[Row]
    sources: list[Source]
    notes: list[str]


def make_table(entry: Entry, sources: Sequence[Source], points: int | None = None) -> Table:
    """The table of an entry; `points` overrides how many first steps are used."""
    panels = [replace(p, points=points) if points is not None else p for p in entry.panels]
    rows = [row for panel in panels for row in _rows(entry, panel, sources)]
    unsaid = entry.own or not rows
    lacking = [text for p in panels if unsaid for text in missing(entry, p, sources)]
    if entry.own and not rows:
        raise UserError(f"{entry.title}: {'; '.join(lacking)}")
    said = [
        f"{row.panel}, {row.method}, not averaged: {text}"
        for row in rows
        for text in in_words(row.measured.without)
    ]
    said += lacking
    said += [text for source in sources for text in said_of(source, entry)]
    return Table(entry, rows, list(sources), list(dict.fromkeys(said)))


def said_of(source: Source, entry: Entry) -> list[str]:
    """What must be said of a source beside an entry: its own notes, and runs that are not shown."""
    tasks = {task_of(panel, source): None for panel in entry.panels}
    own = [f"{source.name}: {text}" for text in notes(source, tasks)]
    return own + left_out(source, entry)


def left_out(source: Source, entry: Entry) -> list[str]:
    """Runs of the entry's tasks that none of its panels shows."""
    found = []
    for task in dict.fromkeys(task_of(panel, source) for panel in entry.panels):
        for setting, runs in source.of(task).items():
            if not entry.shows(setting):
                found.append(f"{source.name}: not shown: {len(runs)} runs of {label(setting)}")
    return found


def _rows(entry: Entry, panel: Panel, sources: Sequence[Source]) -> Iterator[Row]:
    """The rows of a panel: methods in the entry's order, sources within them."""
    for method in entry.methods:
        paper = panel.paper.get(method, [])
        found = [row for s in sources for row in _of_source(entry, panel, s, method)]
        if found:
            yield from found
        elif paper:
            base = panel.points if isinstance(panel.points, int) else panel.points["paper"]
            yield Row("", panel.title, name_of(entry, method), None, base, paper, key=method)


def _of_source(entry: Entry, panel: Panel, source: Source, method: str) -> Iterator[Row]:
    settings = settings_of(panel, source, method)
    baseline = _baseline(entry, panel, source)
    for setting, runs in settings.items():
        measured = measure(runs, panel, entry.statistic)
        yield Row(
            source.name,
            panel.title,
            name_of(entry, method, setting, list(settings)),
            setting,
            panel.points_of(runs[0]),
            panel.paper.get(method, []),
            measured,
            None if method == entry.baseline else _paired(measured.values, baseline),
            runs[0].origin.scale,
            method,
        )


def settings_of(panel: Panel, source: Source, method: str) -> dict[Setting, list[LoggedRun]]:
    """The runs of a method that belong to a panel."""
    return {
        setting: runs
        for setting, runs in source.of(task_of(panel, source), method).items()
        if panel.takes(setting)
    }


def task_of(panel: Panel, source: Source) -> str:
    """The first name of a panel's task under which there are runs for it."""
    present = (task for task in panel.tasks if any(map(panel.takes, source.of(task))))
    return next(present, panel.tasks[0])


def name_of(
    entry: Entry, method: str, setting: Setting | None = None, among: Sequence[Setting] = ()
) -> str:
    """A method's name, the paper's name for it, and what sets it apart from others of its name.

    In an entry of one's own it is the name that stands there.
    """
    called = entry.methods[method]
    name = method if called.lower() == method else f"{method} ({called})"
    name = called if entry.own else name
    return name if setting is None or len(among) < 2 else f"{name}, {_apart(setting, among)}"


def _apart(setting: Setting, all_settings: Sequence[Setting]) -> str:
    """What distinguishes a setting from the others of its method."""
    parts = []
    if len({other.beta for other in all_settings}) > 1 and setting.beta is not None:
        parts.append(f"β = {setting.beta:g}")
    if len({other.lengths for other in all_settings}) > 1:
        parts.append(f"{lengths(setting)} tokens")
    return ", ".join(parts or [setting.task])


def _baseline(entry: Entry, panel: Panel, source: Source) -> Mapping[int, float]:
    """The baseline's number of each run; none if it has several settings in the panel."""
    if entry.baseline is None:
        return {}
    groups = list(settings_of(panel, source, entry.baseline).values())
    return measure(groups[0], panel, entry.statistic).values if len(groups) == 1 else {}


def _paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> PairedTest | None:
    common = sorted(values.keys() & baseline.keys())
    if len(common) < 2:
        return None
    return paired_difference([values[run] for run in common], [baseline[run] for run in common])


def missing(entry: Entry, panel: Panel, sources: Sequence[Source]) -> list[str]:
    """What must be said of a panel of which some methods, or all, have no runs."""
    settings = [run.setting for source in sources for run in source.runs]
    without = [
        method
        for method in entry.methods
        if not any(_fits(setting, _conditions(panel, [method])) for setting in settings)
    ]
    where = panel.title or panel.tasks[0]
    if len(without) == len(entry.methods):
        return [f"{where}: {_excluded(settings, _conditions(panel, without))}"]
    return [
        f"{where}, {entry.methods[method]}: {_excluded(settings, _conditions(panel, [method]))}"
        for method in without
    ]


def _conditions(panel: Panel, methods: Sequence[str]) -> list[Condition]:
    """The panel's conditions on settings, in the order in which they are asked."""
    found: list[Condition] = [
        (f"task {' or '.join(panel.tasks)}", lambda s: s.task in panel.tasks, lambda s: s.task),
        (f"method {' or '.join(methods)}", lambda s: s.method in methods, lambda s: s.method),
    ]
    if panel.lengths is not None:
        wanted = tuple(panel.lengths)
        text = f"lengths {'–'.join(map(str, wanted))}"
        found.append((text, lambda s: s.lengths == wanted, lengths))
    if panel.beta is not None:
        text = f"beta {panel.beta:g}"
        found.append((text, lambda s: s.beta in {None, panel.beta}, lambda s: f"{s.beta:g}"))
    return found


def _fits(setting: Setting, conditions: Sequence[Condition]) -> bool:
    return all(meets(setting) for _, meets, _ in conditions)


def _excluded(settings: Sequence[Setting], conditions: Sequence[Condition]) -> str:
    """Of so many runs, how many each condition excluded of those that met the ones before it."""
    parts, left = [], list(settings)
    for text, meets, of in conditions:
        out = Counter(of(setting) for setting in left if not meets(setting))
        left = [setting for setting in left if meets(setting)]
        if out:
            theirs = ", ".join(f"{name}: {count}" for name, count in sorted(out.items()))
            parts.append(f"{text} excludes {out.total()} ({theirs})")
    return f"no runs: of {len(settings)}, {', then '.join(parts)}"

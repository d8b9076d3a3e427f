"""Tables and figures of papers as their YAML files say them, and which runs they show.

A kind of them is a class, which reads its entry, makes it of runs, and writes it (kinds.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

from tokencredit.errors import UserError, require
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, label, lengths, notes
from tokencredit.store.files import read_yaml, reading

FOLDER: Final = Path(__file__).parent / "catalogue"
"""One YAML file for each table or figure of a paper; another paper is more files."""
CLAIMS: Final = ("win_rates", "claims", "token_classes", "numbers")
"""The lists of a claims.yaml."""
STATISTICS: Final = {
    "mean": "mean of the first points of each run",
    "last": "mean of the last ten of the first points of each run",
    "at_kl": "smoothed over ten steps, where each run first comes there",
    "held_out": "on held-out prompts after training",
}
"""The numbers that stand for one run, and what they are."""
Schema = TypeVar("Schema")
Condition = tuple[str, Callable[[Setting], bool], Callable[[Setting], str]]
"""A condition as it stands in the entry, whether a setting meets it, and what the setting has."""


@dataclass(slots=True, kw_only=True)
class Panel:
    """Runs that stand together: a block of rows of a table, a panel of a figure."""

    task: str | list[str]
    """The runs' `task`, or several names, of which the first that there are runs of is taken."""
    points: int | dict[str, int]
    """How many first steps of a run are used, exactly; or that number by scale."""
    title: str = ""
    """Heading."""
    column: str = "mean_reward"
    """Column of the run CSVs."""
    lengths: list[int] | None = None
    """Only runs with this range of response lengths; null: all."""
    beta: float | None = None
    """Only runs with this β, and those of methods without one; null: all."""
    kl: float | None = None
    """With statistic at_kl: the level, in nats."""
    paper: dict[str, list[float]] = field(default_factory=dict)
    """The paper's number for each method: a mean, and the half width printed beside it."""

    @property
    def tasks(self) -> list[str]:
        """The names of the task."""
        return [self.task] if isinstance(self.task, str) else self.task

    def takes(self, setting: Setting) -> bool:
        """Whether runs of this setting belong here."""
        fits = self.lengths is None or tuple(self.lengths) == setting.lengths
        return fits and (self.beta is None or setting.beta in {None, self.beta})

    def points_of(self, run: LoggedRun) -> int:
        """How many first steps of this run are used."""
        if isinstance(self.points, int):
            return self.points
        return self.points.get(run.origin.scale, self.points["paper"])


@dataclass(slots=True, kw_only=True)
class Entry(ABC):
    """A table or figure of a paper. A subclass is a kind of them."""

    kind: ClassVar[str]
    """What its YAML file calls the kind."""
    command: ClassVar[str]
    """The command that makes it: table or figure."""

    title: str
    """What it shows."""
    source: str
    """Where the paper has it, and where its numbers are from."""
    methods: dict[str, str]
    """The methods shown, in this order, and what the paper calls them."""
    own: bool = field(default=False, init=False)
    """Whether it is a file of one's own, whose names are shown as they are."""

    def __post_init__(self) -> None:
        """Check the methods."""
        methods: object = self.methods
        named = isinstance(methods, dict) and all(isinstance(x, str) for x in methods.values())
        rule = "must name each method and what it is called, e.g. {abc: ABC, sparse: Sparse}"
        require(named and bool(methods), "methods", methods, rule)

    @classmethod
    def read(cls, tree: Mapping[str, object], path: Path) -> Self:
        """The entry in a YAML file, whose content is `tree`."""
        return build(cls, tree, path)

    @property
    @abstractmethod
    def tasks(self) -> list[str]:
        """The names of the experiments that it is about."""

    def of_task(self, task: str) -> Self:
        """The part of it that is about one experiment."""
        del task
        return self


@dataclass(slots=True, kw_only=True)
class PanelEntry(Entry):
    """One that is made from the curves of runs, panel by panel."""

    panels: list[Panel]
    """The parts of the table or figure."""

    def __post_init__(self) -> None:
        """Check the panels."""
        Entry.__post_init__(self)
        require(bool(self.panels), "panels", self.panels, "must not be empty")

    @classmethod
    def read(cls, tree: Mapping[str, object], path: Path) -> Self:
        """The entry in a YAML file; a panel is a mapping of its own."""
        panels = tree.get("panels")
        if not isinstance(panels, list):
            raise UserError(f"{path}: panels: must be a list")
        built = [build(Panel, panel, path) for panel in panels]
        return build(cls, {**tree, "panels": built}, path)

    @property
    def has_paper(self) -> bool:
        """Whether any panel has numbers of a paper."""
        return any(panel.paper for panel in self.panels)

    def shows(self, setting: Setting) -> bool:
        """Whether runs of this setting are in any panel."""
        return setting.method in self.methods and any(
            setting.task in panel.tasks and panel.takes(setting) for panel in self.panels
        )

    @property
    def tasks(self) -> list[str]:
        """The first name of every task, once."""
        return list(dict.fromkeys(panel.tasks[0] for panel in self.panels))

    def of_task(self, task: str) -> Self:
        """Its panels of this task alone."""
        return replace(self, panels=[panel for panel in self.panels if panel.tasks[0] == task])

    def with_points(self, points: int | None) -> list[Panel]:
        """Its panels; of so many first steps of each run, if that is said."""
        return [replace(p, points=points) if points is not None else p for p in self.panels]


@cache
def claim_names() -> tuple[str, ...]:
    """Every claim of the catalogue as PAPER/CLAIM; read once, though each cell of a plan asks."""
    found: list[str] = []
    for path in sorted(FOLDER.glob("*/claims.yaml")):
        with reading(path):
            tree = read_yaml(path)
            given = [claim for kind in CLAIMS for claim in tree.get(kind, ())]
            found += [f"{path.parent.name}/{claim['name']}" for claim in given]
    return tuple(found)


def build(schema: type[Schema], given: Mapping[str, Any], path: Path) -> Schema:
    """An instance of a dataclass from a mapping; names the key that is unknown or missing."""
    known = {item.name: item for item in fields(schema) if item.init}  # type: ignore[arg-type]
    unknown = [name for name in given if name not in known]
    needed = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in given
    ]
    if unknown or needed:
        wrong = [f"{name}: unknown key" for name in unknown]
        wrong += [f"{name}: is missing" for name in needed]
        raise UserError(f"{path}: {'; '.join(wrong)}; {schema.__name__} has: {', '.join(known)}")
    try:
        return schema(**given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def said_of(source: Source, entry: PanelEntry) -> list[str]:
    """What must be said of a source beside an entry: its own notes, and runs that are not shown."""
    tasks = {task_of(panel, source): None for panel in entry.panels}
    own = [f"{source.name}: {text}" for text in notes(source, tasks)]
    return own + left_out(source, entry)


def left_out(source: Source, entry: PanelEntry) -> list[str]:
    """Runs of the entry's tasks that none of its panels shows."""
    found = []
    for task in dict.fromkeys(task_of(panel, source) for panel in entry.panels):
        for setting, runs in source.of(task).items():
            if not entry.shows(setting):
                found.append(f"{source.name}: not shown: {len(runs)} runs of {label(setting)}")
    return found


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
    entry: PanelEntry, method: str, setting: Setting | None = None, among: Sequence[Setting] = ()
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


def missing(entry: PanelEntry, panel: Panel, sources: Sequence[Source]) -> list[str]:
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
    if not settings:
        return "there are no runs"
    parts, left = [], list(settings)
    for text, meets, of in conditions:
        out = Counter(of(setting) for setting in left if not meets(setting))
        left = [setting for setting in left if meets(setting)]
        if out:
            theirs = ", ".join(f"{name}: {count}" for name, count in sorted(out.items()))
            parts.append(f"{text} excludes {out.total()} ({theirs})")
    return f"no runs: of {len(settings)}, {', then '.join(parts)}"

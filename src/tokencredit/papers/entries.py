"""The catalogue: one YAML file for each table or figure of a paper; another paper is more files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from tokencredit.errors import UserError, require
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.store.files import read_yaml, reading

FOLDER: Final = Path(__file__).parent / "catalogue"
FIGURES: Final = ("curves", "tradeoff", "frontier", "by_beta")
WIN_RATES: Final = "win_rates"
TABLES: Final = ("table", WIN_RATES)
KINDS: Final = ("table", *FIGURES)
STATISTICS: Final = ("mean", "last", "at_kl")
BANDS: Final = ("sd", "se")
Schema = TypeVar("Schema")


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
class Entry:
    """A table or figure of a paper."""

    kind: str
    """table, curves, tradeoff, frontier, or by_beta."""
    title: str
    """What it shows."""
    source: str
    """Where the paper has it, and where its numbers are from."""
    methods: dict[str, str]
    """The methods shown, in this order, and what the paper calls them."""
    panels: list[Panel]
    """The parts of the table or figure."""
    statistic: str = "mean"
    """Of a table: the number of one run. mean of the first points, mean of the last of them, or the
    value where the KL divergence first reaches a level."""
    baseline: str | None = None
    """Of a table: the method that the others are compared with, run by run."""
    digits: int = 2
    """Of a table: how many decimals the paper's numbers have."""
    band: str = "sd"
    """Of curves: sd, the spread over runs (ddof 0), or se, the standard error of the mean."""
    smooth: int = 1
    """Of curves and trade-offs: the width of a running mean over what is drawn."""
    individual: list[str] = field(default_factory=list)
    """Of curves: methods of which every run is drawn."""
    guide: float | None = None
    """Of a trade-off: the slope of a dashed line."""
    own: bool = field(default=False, init=False)
    """Whether it is a file of one's own, whose names are shown as they are."""

    def __post_init__(self) -> None:
        """Check the names."""
        known = ", ".join((*KINDS, WIN_RATES))
        require(self.kind in KINDS, "kind", self.kind, f"must be one of {known}")
        known = ", ".join(STATISTICS)
        require(
            self.statistic in STATISTICS, "statistic", self.statistic, f"must be one of {known}"
        )
        require(self.band in BANDS, "band", self.band, f"must be one of {', '.join(BANDS)}")
        require(self.smooth >= 1, "smooth", self.smooth, "must be >= 1 step")
        require(bool(self.panels), "panels", self.panels, "must not be empty")
        _check_methods(self.methods)

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


@dataclass(slots=True, kw_only=True)
class WinEntry:
    """A matrix of win rates of a paper."""

    kind: str
    """win_rates."""
    title: str
    """What it shows."""
    source: str
    """Where the paper has it."""
    methods: dict[str, str]
    """The methods shown, in this order, and what the paper calls them."""
    task: str = WIN_RATES
    """The experiment with the comparison."""
    paper: dict[str, list[float]] = field(default_factory=dict)
    """The paper's rows; a row beats columns, which are in the order of the rows."""
    digits: int = 3
    """How many decimals are shown."""

    def __post_init__(self) -> None:
        """The paper's rows must make a square whose names are those of methods."""
        _check_methods(self.methods)
        unknown = [name for name in self.paper if name not in self.methods]
        require(not unknown, "paper", unknown, "each row must be one of methods")
        for name, row in self.paper.items():
            rule = f"must have {len(self.paper)} numbers, a column for each row"
            require(len(row) == len(self.paper), f"paper.{name}", row, rule)

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def rate(self, row: str, column: str) -> float | None:
        """The paper's rate; None where it has none."""
        if row not in self.paper or column not in self.paper:
            return None
        return self.paper[row][list(self.paper).index(column)]


def _check_methods(methods: object) -> None:
    named = isinstance(methods, dict) and all(isinstance(x, str) for x in methods.values())
    rule = "must name each method and what it is called, e.g. {abc: ABC, sparse: Sparse}"
    require(named and bool(methods), "methods", methods, rule)


def find(name: str, kinds: tuple[str, ...]) -> Entry:
    """The entry of that name, of kinds that are made from the curves of runs."""
    entry = find_any(name, kinds)
    assert isinstance(entry, Entry)
    return entry


def find_any(name: str, kinds: tuple[str, ...]) -> Entry | WinEntry:
    """The entry of that name in the catalogue, or in a YAML file of one's own."""
    path = Path(name) if is_own(name) else FOLDER / f"{name}.yaml"
    named = listing(kinds)
    if not path.is_file():
        raise UserError(f"{name}: there is no such entry; there are {', '.join(named)}")
    entry = read_entry(path)
    if entry.kind not in kinds:
        what = "figure" if entry.kind in FIGURES else "table"
        raise UserError(f"{name}: is a {what}; `tokencredit {what} {name}` makes it")
    if isinstance(entry, Entry):
        entry.own = is_own(name)
    return entry


def is_own(name: str) -> bool:
    """Whether a name is that of a file of one's own, not of the catalogue."""
    return name.endswith((".yaml", ".yml"))


def listing(kinds: tuple[str, ...]) -> dict[str, Entry | WinEntry]:
    """The entries of these kinds, by name."""
    paths = sorted(FOLDER.glob("*/*.yaml"))
    entries = {
        path.relative_to(FOLDER).with_suffix("").as_posix(): read_entry(path)
        for path in paths
        if path.stem != "claims"
    }
    return {name: entry for name, entry in entries.items() if entry.kind in kinds}


def read_entry(path: Path) -> Entry | WinEntry:
    """The entry in a YAML file; a key that it cannot have, or lacks, is an error."""
    tree = read_yaml(path)
    with reading(path):
        if tree.get("kind") == WIN_RATES:
            return build(WinEntry, tree, path)
        panels = tree.get("panels")
        if not isinstance(panels, list):
            raise UserError(f"{path}: panels: must be a list")
        built = [build(Panel, panel, path) for panel in panels]
        return build(Entry, {**tree, "panels": built}, path)


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

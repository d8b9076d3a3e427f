"""A paper's matrix of win rates beside that of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from tokencredit.errors import require
from tokencredit.papers.entries import Entry
from tokencredit.papers.formats import Format, Made, Runs, TableEntry, markdown, with_remarks
from tokencredit.papers.runs import holds_runs, read_csv
from tokencredit.papers.scores import Comparison
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.statistics.win_rates import Against, WinMatrix, left_out
from tokencredit.store.run_folder import COMPLETE
from tokencredit.store.sheets import csv_text

CORNER: Final = "row beats column"
OVER_PROMPTS: Final = "± the standard error over prompts, where a single pair of models met"
CSV_COLUMNS: Final = (
    *("comparison", "row", "column", "rate", "seeds", "seed_low", "seed_high"),
    *("prompts", "prompt_se", "wins", "draws", "losses", "paper"),
)


@dataclass(slots=True, kw_only=True)
class WinEntry(TableEntry):
    """A matrix of win rates of a paper."""

    kind: ClassVar[str] = "win_rates"

    task: str = "win_rates"
    """The experiment with the comparison."""
    paper: dict[str, list[float]] = field(default_factory=dict)
    """The paper's rows; a row beats columns, which are in the order of the rows."""
    digits: int = 3
    """How many decimals are shown."""

    def __post_init__(self) -> None:
        """The paper's rows must make a square whose names are those of methods."""
        Entry.__post_init__(self)
        unknown = [name for name in self.paper if name not in self.methods]
        require(not unknown, "paper", unknown, "each row must be one of methods")
        for name, row in self.paper.items():
            rule = f"must have {len(self.paper)} numbers, a column for each row"
            require(len(row) == len(self.paper), f"paper.{name}", row, rule)

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def made(self, runs: Runs, points: int | None = None) -> WinTables:
        """The matrix of each comparison."""
        require(points is None, "--points", points, "win rates are of answers, not of steps")
        return WinTables(make_win_tables(self, runs.comparisons(self.task)))

    def rate(self, row: str, column: str) -> float | None:
        """The paper's rate; None where it has none."""
        if row not in self.paper or column not in self.paper:
            return None
        return self.paper[row][list(self.paper).index(column)]


@dataclass(frozen=True, slots=True)
class WinTable:
    """A matrix of the catalogue; `matrix` is None where there is only the paper's."""

    entry: WinEntry
    comparison: Comparison | None
    matrix: WinMatrix | None
    notes: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The methods that the paper or the comparison has, in the entry's order."""
        ours = () if self.matrix is None else self.matrix.names
        return [name for name in self.entry.methods if name in ours or name in self.entry.paper]


def make_win_tables(entry: WinEntry, comparisons: Sequence[Comparison]) -> list[WinTable]:
    """The matrix of each comparison; the paper's alone where none has two of its methods."""
    tables, notes = [], []
    for comparison in comparisons:
        names = [name for name in entry.methods if name in comparison.methods]
        if len(names) < 2:
            known = ", ".join(entry.methods)
            notes.append(f"{comparison.place} has fewer than two of the methods {known}")
            continue
        said = [f"not shown: {name}" for name in comparison.methods if name not in entry.methods]
        said += left_out({name: comparison.methods[name] for name in names})
        said += unfinished(comparison)
        tables.append(WinTable(entry, comparison, comparison.matrix(names), said))
    return tables or [WinTable(entry, None, None, notes or ["there is no comparison yet"])]


def unfinished(comparison: Comparison) -> list[str]:
    """Cells beside a comparison that have no policy to judge, so that they are counted."""
    cells = [path for path in sorted(comparison.path.parent.glob("*.csv")) if holds_runs(path)]
    return [
        f"not judged: {run.setting.method}, seed {run.run}, {run.status} after {len(run)} steps"
        for path in cells
        for run in read_csv(path)
        if run.status != COMPLETE
    ]


@dataclass(frozen=True, slots=True)
class WinTables(Made):
    """The matrices of an entry, one for each comparison."""

    tables: Sequence[WinTable]

    def text(self, form: Format) -> str:
        """The matrices in that form."""
        if form is Format.csv:
            return _csv(self.tables)
        return "\n".join(with_remarks(*win_cells(t), win_remarks(t), form) for t in self.tables)

    def on_page(self) -> str:
        """The matrices, each with what must be said of it."""
        parts = []
        for table in self.tables:
            parts += [markdown(*win_cells(table)), *(f"*{line}*" for line in win_remarks(table))]
        return "\n\n".join(parts)


def win_cells(table: WinTable) -> tuple[list[str], list[list[str]]]:
    """Head and rows: each rate with its interval over seeds, and the paper's in parentheses."""
    called = [table.entry.methods[name] for name in table.names]
    rows = [
        [called[i], *(_cell(table, row, column) for column in table.names)]
        for i, row in enumerate(table.names)
    ]
    return [CORNER, *called], rows


def win_remarks(table: WinTable) -> list[str]:
    """What the numbers are and everything that a reader must know."""
    entry, comparison, matrix = table.entry, table.comparison, table.matrix
    theirs = "In parentheses the paper's" if entry.paper else "Source"
    lines = [f"{entry.title}. {theirs}: {entry.source}."]
    if comparison is not None and matrix is not None:
        facts = comparison.facts
        oracle = facts.get("oracle", {}).get("name")
        by = f", scored by {oracle}" if oracle else ""
        about = f" ({comparison.about})" if comparison.about else ""
        kinds = {cell.seeds is None for cell in matrix.cells.values()}
        said = {False: "in brackets the 95 % t interval over seeds", True: OVER_PROMPTS}
        over = "; ".join(said[kind] for kind in sorted(kinds))
        lines.append(f"Ours: {comparison.place}{about}, {comparison.prompts} prompts{by}; {over}.")
    return [*lines, *(f"Note: {note}." for note in table.notes)]


def _cell(table: WinTable, row: str, column: str) -> str:
    digits, matrix = table.entry.digits, table.matrix
    paper = table.entry.rate(row, column)
    parts = [] if paper is None else [f"({rounded(paper, digits)})"]
    if matrix is not None and (row, column) in matrix.cells:
        text = rounded(matrix.rate(row, column), digits)
        parts = [f"{text} {_interval(matrix.cells[row, column], digits)}", *parts]
    elif row == column:
        parts = [rounded(0.5, digits)]
    return " ".join(parts) or "–"


def _interval(found: Against, digits: int) -> str:
    if found.seeds is None:
        return f"± {rounded(found.rate.se, digits)}"
    return interval(found.seeds.low, found.seeds.high, digits)


def _csv(tables: Sequence[WinTable]) -> str:
    theirs = any(table.entry.paper for table in tables)
    rows: list[Sequence[object]] = [CSV_COLUMNS if theirs else CSV_COLUMNS[:-1]]
    for table in tables:
        place = "" if table.comparison is None else table.comparison.place
        for row in table.names:
            for column in table.names:
                if row != column:
                    paper = table.entry.rate(row, column)
                    ours = _numbers(table.matrix, row, column)
                    beside = ["" if paper is None else paper] if theirs else []
                    rows.append([place, row, column, *ours, *beside])
    return csv_text(rows)


def _numbers(matrix: WinMatrix | None, row: str, column: str) -> list[object]:
    if matrix is None or (row, column) not in matrix.cells:
        return [""] * 9
    found = matrix.cells[row, column]
    rate, seeds = found.rate, found.seeds
    over = ["", "", ""] if seeds is None else [seeds.n, seeds.low, seeds.high]
    return [rate.mean, *over, rate.n, rate.se, rate.wins, rate.draws, rate.losses]

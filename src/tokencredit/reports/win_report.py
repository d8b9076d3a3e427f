"""A paper's matrix of win rates beside that of a comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.reports.cells import COMPLETE
from tokencredit.reports.entries import WinEntry
from tokencredit.reports.formats import Format, latex, markdown
from tokencredit.reports.runs import read_runs
from tokencredit.reports.scores import Comparison, find_comparisons
from tokencredit.reports.winrate import Against, WinMatrix

CORNER: Final = "row beats column"
CSV_COLUMNS: Final = (
    *("comparison", "row", "column", "rate", "seeds", "seed_low", "seed_high"),
    *("prompts", "prompt_se", "wins", "draws", "losses", "paper"),
)


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


def make_win_tables(entry: WinEntry, paths: Sequence[Path]) -> list[WinTable]:
    """The matrix of each comparison at `paths`; the paper's alone where there is none."""
    tables = []
    for comparison in find_comparisons(paths):
        names = [name for name in entry.methods if name in comparison.methods]
        others = [name for name in comparison.methods if name not in entry.methods]
        notes = [f"not shown: {name}" for name in others] + comparison.left_out()
        if len(names) < 2:
            known = ", ".join(entry.methods)
            raise UserError(f"{comparison.path}: has fewer than two of the methods {known}")
        notes += unfinished(comparison)
        tables.append(WinTable(entry, comparison, comparison.matrix(names), notes))
    return tables or [WinTable(entry, None, None, ["there is no comparison yet"])]


def unfinished(comparison: Comparison) -> list[str]:
    """Cells beside a comparison that have no policy to judge, so that they are counted."""
    folder = comparison.path.parent
    if not any(path != comparison.path for path in folder.glob("*.csv")):
        return []
    return [
        f"not judged: {run.setting.method}, seed {run.run}, {run.status} after {len(run)} steps"
        for run in read_runs(folder)
        if run.status != COMPLETE
    ]


def render_wins(tables: Sequence[WinTable], form: Format) -> str:
    """The matrices in that form."""
    if form is Format.csv:
        return _csv(tables)
    return "\n".join(_text(table, form) for table in tables)


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
    entry, comparison = table.entry, table.comparison
    lines = [f"{entry.title}. In parentheses the paper's: {entry.source}."]
    if comparison is not None and table.matrix is not None:
        facts = comparison.facts
        prompts = len(next(iter(next(iter(comparison.methods.values())).values())))
        oracle = facts.get("oracle", {}).get("name")
        by = f", scored by {oracle}" if oracle else ""
        seeds = len(comparison.seeds)
        over = (
            f"in brackets the 95 % t interval over {seeds} seeds"
            if seeds > 1
            else "± the standard error over prompts of one run"
        )
        place = "/".join(comparison.path.parts[-2:])
        lines.append(f"Ours: {place}, {prompts} prompts{by}; {over}.")
    return [*lines, *(f"Note: {note}." for note in table.notes)]


def _text(table: WinTable, form: Format) -> str:
    head, rows = win_cells(table)
    text = markdown(head, rows) if form is Format.markdown else latex(head, rows)
    mark = "" if form is Format.markdown else "% "
    said = [f"{mark}{line}" for line in win_remarks(table)]
    return "\n".join([text, "", *said]).rstrip() + "\n"


def _cell(table: WinTable, row: str, column: str) -> str:
    digits, matrix = table.entry.digits, table.matrix
    paper = table.entry.rate(row, column)
    parts = [] if paper is None else [f"({paper:.{digits}f})"]
    if matrix is not None and row in matrix.names and column in matrix.names:
        text = f"{matrix.rate(row, column):.{digits}f}"
        if row != column:
            text += f" {_interval(matrix.cells[row, column], digits)}"
        parts = [text, *parts]
    return " ".join(parts) or "–"


def _interval(found: Against, digits: int) -> str:
    if found.seeds is None:
        return f"± {found.rate.se:.{digits}f}"
    return f"[{found.seeds.low:.{digits}f}, {found.seeds.high:.{digits}f}]"


def _csv(tables: Sequence[WinTable]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        place = "" if table.comparison is None else table.comparison.path.as_posix()
        for row in table.names:
            for column in table.names:
                if row != column:
                    paper = table.entry.rate(row, column)
                    ours = _numbers(table.matrix, row, column)
                    writer.writerow([place, row, column, *ours, "" if paper is None else paper])
    return text.getvalue()


def _numbers(matrix: WinMatrix | None, row: str, column: str) -> list[object]:
    if matrix is None or row not in matrix.names or column not in matrix.names:
        return [""] * 9
    found = matrix.cells[row, column]
    rate, seeds = found.rate, found.seeds
    over = ["", "", ""] if seeds is None else [seeds.n, seeds.low, seeds.high]
    return [rate.mean, *over, rate.n, rate.se, rate.wins, rate.draws, rate.losses]

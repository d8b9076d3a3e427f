"""Win matrices as tables: rows beat columns, as in Table 1 of "DPO Meets PPO" (RTO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from tokencredit.statistics.rounding import DIGITS, interval, rounded, with_error
from tokencredit.statistics.win_rates import Against, WinMatrix
from tokencredit.store.sheets import csv_text

CORNER: Final = "Win Rate"
LONG: Final = (
    "row",
    "column",
    "rate",
    "prompt_se",
    "low",
    "high",
    "prompts",
    "wins",
    "draws",
    "losses",
    "seeds",
    "seed_low",
    "seed_high",
)


def markdown(matrix: WinMatrix, *, errors: bool = False, digits: int = DIGITS) -> str:
    """The matrix as a Markdown table; with `errors` each rate ± its standard error over prompts."""

    def cell(row: str, column: str) -> str:
        rate = matrix.rate(row, column)
        if errors and row != column:
            return with_error(rate, matrix.cells[row, column].rate.se, digits)
        return rounded(rate, digits)

    return table(
        [CORNER, *matrix.names],
        [[row, *(cell(row, column) for column in matrix.names)] for row in matrix.names],
    )


def seeds_markdown(matrix: WinMatrix, digits: int = DIGITS) -> str:
    """Mean and t interval over seeds of every pair that has several; empty if none has."""
    rows = []
    for i, row in enumerate(matrix.names):
        for column in matrix.names[i + 1 :]:
            seeds = matrix.cells[row, column].seeds
            if seeds is not None:
                mean, ends = rounded(seeds.mean, digits), interval(seeds.low, seeds.high, digits)
                rows.append([f"{row} against {column}", str(seeds.n), mean, ends])
    return table(["over seeds", "pairs", "mean", "95 % t interval"], rows) if rows else ""


def crossed_markdown(matrix: WinMatrix, digits: int = DIGITS) -> str:
    """Mean and interval over seeds crossed with prompts of every pair that has several of both.

    Beside them the parts of the variance of one verdict, in percent: seeds, prompts, and the rest.
    Empty if there is no such pair.
    """
    rows = []
    for i, row in enumerate(matrix.names):
        for column in matrix.names[i + 1 :]:
            both = matrix.cells[row, column].both if (row, column) in matrix.cells else None
            if both is None:
                continue
            parts = both.seed_variance, both.prompt_variance, both.rest_variance
            shares = [f"{x / sum(parts):.0%}" if sum(parts) else "–" for x in parts]
            ends = interval(both.low, both.high, digits)
            counts = f"{both.seeds} × {both.prompts}"
            mean = rounded(both.mean, digits)
            rows.append(
                [f"{row} against {column}", counts, mean, ends, f"{both.degrees:.1f}", *shares]
            )
    head = ["seeds × prompts", "n", "mean", "95 % interval", "degrees of freedom"]
    return table([*head, "seeds", "prompts", "rest"], rows) if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def wide_csv(matrix: WinMatrix, digits: int = DIGITS) -> str:
    """The rates alone, in the columns of the paper's table."""
    rows = [
        [row, *(rounded(matrix.rate(row, column), digits) for column in matrix.names)]
        for row in matrix.names
    ]
    return csv_text([[CORNER, *matrix.names], *rows])


def long_csv(matrix: WinMatrix) -> str:
    """One line a pair, in both directions, with every number at full precision."""
    rows: list[Sequence[object]] = [LONG]
    for (row, column), found in matrix.cells.items():
        rate, seeds = found.rate, found.seeds
        over = ("", "", "") if seeds is None else (seeds.n, seeds.low, seeds.high)
        counts = (rate.n, rate.wins, rate.draws, rate.losses)
        rows.append([row, column, rate.mean, rate.se, rate.low, rate.high, *counts, *over])
    return csv_text(rows)


def plain(matrix: WinMatrix) -> dict[str, Any]:
    """For JSON: {row: {column: …}}, without the diagonal."""
    return {
        row: {c: _plain(matrix.cells[row, c]) for c in matrix.names if c != row}
        for row in matrix.names
    }


def _plain(found: Against) -> dict[str, Any]:
    over = None if found.seeds is None else asdict(found.seeds)
    return {"over_prompts": asdict(found.rate), "over_seeds": over}


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")

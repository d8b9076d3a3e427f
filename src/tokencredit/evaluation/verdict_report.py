"""What `judge winrate` and `judge strengths` print and write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tokencredit.console import aligned
from tokencredit.errors import UserError
from tokencredit.evaluation.annotations import as_rows, games, lines, read_annotations
from tokencredit.statistics.bradley_terry import Strengths, probabilities, strengths
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.statistics.win_rates import win_rate
from tokencredit.store.artifacts import make_folder
from tokencredit.store.files import csv_rows, write_json

DIGITS = 4
"""Of strengths, of which differences are read."""
HEAD = ["model", "baseline", "win rate %", "prompts", "wins", "draws", "losses"]
COLUMNS = ("first", "second", "first_wins", "second_wins")


def winrate(paths: Sequence[Path], out: Path | None) -> str:
    """The table of win rates; with `out` also files."""
    groups, dropped = read_annotations(paths)
    text = "\n".join(aligned([HEAD, *lines(groups)]))
    if dropped.counts:
        text += f"\nnot counted: {dropped.summary()}"
    if out is not None:
        make_folder(out)
        rates = [
            {"model": g.model, "baseline": g.baseline, **asdict(win_rate(g.shares))} for g in groups
        ]
        found = {"schema_version": 1, "win_rates": rates, "dropped": dict(dropped.counts)}
        write_json(out / "winrate.json", found)
        write_json(out / "annotations.json", as_rows(groups), nan=True)  # as they were given
    return text


def strength_table(
    file: Path | None, annotations: Sequence[Path], prior: float, out: Path | None
) -> str:
    """The table of strengths, the best player first; with `out` also a JSON file."""
    names, wins = games(read_annotations(annotations)[0]) if file is None else read_games(file)
    found = strengths(wins, names, prior)
    rows = []
    for i in found.ranking():
        low, high = found.interval(i)
        played = float(wins[i].sum() + wins[:, i].sum())
        rows.append(
            [
                names[i],
                rounded(found.b[i], DIGITS, signed=True),
                rounded(found.se[i], DIGITS),
                interval(low, high, DIGITS, signed=True),
                f"{played:g}",
                f"{100 * float(wins[i].sum()) / played:.1f}",
            ]
        )
    if out is not None:
        make_folder(out.parent)
        write_json(out, _plain(found, prior))
    head = ["player", "strength b", "se", "95 % interval", "games", "raw win rate %"]
    note = f"\nwith {prior:g} drawn games added between every two players" if prior else ""
    return "\n".join(aligned([head, *rows])) + note


def _plain(found: Strengths, prior: float) -> dict[str, object]:
    return {
        "schema_version": 1,
        "players": list(found.names),
        "b": found.b.tolist(),
        "se": found.se.tolist(),
        "covariance": found.covariance.tolist(),
        "probabilities": probabilities(found.b).tolist(),
        "log_likelihood": found.log_likelihood,
        "prior": prior,
    }


def read_games(path: Path) -> tuple[list[str], np.ndarray]:
    """Players and wins[i, j] from a CSV of pairs; a draw counts half for both."""
    if not path.is_file():
        raise UserError(f"--games {path}: there is no such file")
    rows = csv_rows(path)
    if not rows or not set(COLUMNS) <= set(rows[0][1]):
        raise UserError(f"--games {path}: needs rows and the columns {', '.join(COLUMNS)}")
    names = list(dict.fromkeys(row[key] for _, row in rows for key in ("first", "second")))
    wins = np.zeros((len(names), len(names)))
    for number, row in rows:
        i, j = names.index(row["first"]), names.index(row["second"])
        try:
            first, second = float(row["first_wins"]), float(row["second_wins"])
            draws = float(row.get("draws") or 0)
        except (TypeError, ValueError) as error:
            raise UserError(f"--games {path}, line {number}: {error}") from error
        if i == j or not all(0 <= count < np.inf for count in (first, second, draws)):
            raise UserError(
                f"--games {path}, line {number}: two players, and counts that are not negative"
            )
        wins[i, j] += first + draws / 2
        wins[j, i] += second + draws / 2
    return names, wins

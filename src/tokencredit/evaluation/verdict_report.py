"""What `judge winrate` and `judge strengths` print and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tokencredit.console import aligned
from tokencredit.errors import UserError
from tokencredit.evaluation.annotations import Verdicts, as_rows, games, lines, read_annotations
from tokencredit.statistics.bradley_terry import Strengths, probabilities, strengths
from tokencredit.statistics.difficulty import FEWEST, jointly_at_equal_length
from tokencredit.statistics.length_control import AtEqualLength, at_equal_length
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.statistics.win_rates import win_rate
from tokencredit.store.artifacts import make_folder
from tokencredit.store.files import csv_rows, write_json

DIGITS = 4
"""Of strengths, of which differences are read."""
HEAD = ["model", "baseline", "win rate %", "prompts", "wins", "draws", "losses"]
LENGTH_HEAD = ["model", "baseline", "at equal length %", "length", "baseline's", "difficulty from"]
ANSWERED = ("instruction", "output_1", "output_2")
COLUMNS = ("first", "second", "first_wins", "second_wins")


def winrate(paths: Sequence[Path], out: Path | None, *, equal_length: bool = False) -> str:
    """The table of win rates, and with `equal_length` those of answers of one length; with `out`
    also files."""
    groups, dropped = read_annotations(paths)
    text = "\n".join(aligned([HEAD, *lines(groups)]))
    equal = at_equal_lengths(groups) if equal_length else []
    if equal:
        text += "\n\n" + "\n".join(aligned([LENGTH_HEAD, *(row.cells() for row in equal)]))
    if dropped.counts:
        text += f"\nnot counted: {dropped.summary()}"
    if out is not None:
        make_folder(out)
        rates = [
            {"model": g.model, "baseline": g.baseline, **asdict(win_rate(g.shares))} for g in groups
        ]
        found = {"schema_version": 1, "win_rates": rates, "dropped": dict(dropped.counts)}
        found |= {"at_equal_length": [asdict(row) for row in equal]} if equal else {}
        write_json(out / "winrate.json", found)
        write_json(out / "annotations.json", as_rows(groups), nan=True)  # as they were given
    return text


@dataclass(frozen=True, slots=True)
class Controlled:
    """A win rate at equal length, and how hard instructions were known to be."""

    model: str
    baseline: str
    models: int
    """Models whose verdicts the difficulty of instructions was estimated from; 0: without it."""
    reading: AtEqualLength

    def cells(self) -> list[str]:
        """For a table."""
        x = self.reading
        rate = f"{100 * x.rate:.4f} ± {100 * x.se:.4f}"
        lengths = [f"{x.length:.1f}", f"{x.other_length:.1f}"]
        return [self.model, self.baseline, rate, *lengths, str(self.models or "none")]


def at_equal_lengths(groups: Sequence[Verdicts]) -> list[Controlled]:
    """The win rates that the model of lengths predicts for answers of one length, in characters.

    Where three models or more met one baseline, with the difficulty of instructions, which is the
    same for all. Raises `UserError` for verdicts without instruction or answers.
    """
    found = []
    for baseline in dict.fromkeys(group.baseline for group in groups):
        own = [group for group in groups if group.baseline == baseline]
        readings, models = _readings([_lengths(group) for group in own])
        found += [
            Controlled(group.model, baseline, models, reading)
            for group, reading in zip(own, readings, strict=True)
        ]
    return found


def _readings(
    models: Sequence[Mapping[tuple[str, int], tuple[float, int, int]]],
) -> tuple[Sequence[AtEqualLength], int]:
    """The reading of each model against one baseline, and of how many the difficulties are."""
    if len(models) < FEWEST:
        columns = [zip(*own.values(), strict=True) for own in models]
        return [at_equal_length(*map(list, column)) for column in columns], 0
    items = list(dict.fromkeys(item for own in models for item in own))
    nothing = (np.nan, 0, 0)
    table = np.array([[own.get(item, nothing) for item in items] for own in models], np.float64)
    return jointly_at_equal_length(*np.moveaxis(table, 2, 0)).readings, len(models)


def _lengths(group: Verdicts) -> dict[tuple[str, int], tuple[float, int, int]]:
    """Share, and lengths of model and baseline, by instruction and how often it came before."""
    found: dict[tuple[str, int], tuple[float, int, int]] = {}
    seen = Counter[str]()
    for row, share in zip(group.rows, group.shares, strict=True):
        asked, other, own = (row.get(name) for name in ANSWERED)
        if not (isinstance(asked, str) and isinstance(other, str) and isinstance(own, str)):
            raise UserError(
                f"--equal-length: verdicts on {group.model} against {group.baseline} need "
                f"{', '.join(ANSWERED)}, as annotations.json has them"
            )
        found[asked, seen[asked]] = share, len(own), len(other)
        seen[asked] += 1
    return found


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

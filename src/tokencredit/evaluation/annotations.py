"""Verdicts of AlpacaEval: its annotation files in, and out in the same form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokencredit.data.records import Dropped
from tokencredit.errors import UserError
from tokencredit.statistics.win_rates import win_rate
from tokencredit.store.files import csv_rows
from tokencredit.store.jsonl import read_objects

DRAWS: Final = (0.0, 1.5)
"""Preferences that mean a draw: 0 in AlpacaEval's older files, 1.5 in its newer ones."""
NEEDED: Final = "baseline, model, preference (CSV) or generator_1, generator_2, preference (JSON)"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All usable verdicts on one model against one baseline, in the order of the file."""

    baseline: str
    model: str
    shares: list[float]
    """1 where the model is better, 0 where the baseline is, ½ for a draw."""
    rows: list[dict[str, Any]] = field(repr=False)
    """The rows they were read from."""


def read_annotations(paths: Iterable[Path]) -> tuple[list[Verdicts], Dropped]:
    """The verdicts of all files, by model and baseline, and what could not be used.

    Raises `UserError` for a file that holds no verdicts.
    """
    found: dict[tuple[str, str], Verdicts] = {}
    dropped = Dropped()
    for path in paths:
        before = sum(len(v.shares) for v in found.values())
        for row in _rows(path):
            baseline, model = _players(row, path)
            share = share_of(row["preference"])
            if share is None:
                dropped.add(
                    "preference that is neither 1, 2, a draw, nor between", row["preference"]
                )
                continue
            verdicts = found.setdefault((baseline, model), Verdicts(baseline, model, [], []))
            verdicts.shares.append(share)
            verdicts.rows.append(row)
        if sum(len(v.shares) for v in found.values()) == before:
            raise UserError(f"--annotations {path}: holds no usable verdict ({dropped.summary()})")
    return list(found.values()), dropped


def share_of(preference: object) -> float | None:
    """How much of a win for the model (output 2) a preference is; None if it says nothing.

    1 means output 1 is better, 2 output 2; between them lie the probabilities of AlpacaEval 2.
    """
    try:
        number = float(str(preference))
    except ValueError:
        return None
    if number in DRAWS:
        return 0.5
    return number - 1 if math.isfinite(number) and 1 <= number <= 2 else None


def annotation(
    prompt: str, outputs: tuple[str, str], names: tuple[str, str], share: float, judge: str
) -> dict[str, Any]:
    """One verdict as a row of AlpacaEval's annotations.json; the first output is the baseline's."""
    return {
        "instruction": prompt,
        "output_1": outputs[0],
        "generator_1": names[0],
        "output_2": outputs[1],
        "generator_2": names[1],
        "annotator": judge,
        "preference": 1 + share,
    }


def as_rows(verdicts: Iterable[Verdicts]) -> list[dict[str, Any]]:
    """The verdicts as AlpacaEval's annotations.json, draws as 1.5; other columns are kept."""
    keys = {"baseline": "generator_1", "model": "generator_2"}
    return [
        {keys.get(name, name): value for name, value in row.items()} | {"preference": 1 + share}
        for group in verdicts
        for row, share in zip(group.rows, group.shares, strict=True)
    ]


def games(groups: Iterable[Verdicts]) -> tuple[list[str], np.ndarray]:
    """Players and wins[i, j] of all verdicts together, a draw half a win of both."""
    listed = list(groups)
    names = list(dict.fromkeys(name for g in listed for name in (g.baseline, g.model)))
    wins = np.zeros((len(names), len(names)))
    for group in listed:
        i, j = names.index(group.model), names.index(group.baseline)
        wins[i, j] += sum(group.shares)
        wins[j, i] += len(group.shares) - sum(group.shares)
    return names, wins


def lines(groups: Iterable[Verdicts]) -> list[list[str]]:
    """Model, baseline, win rate ± standard error in percent, and counts, as cells."""
    cells = []
    for group in groups:
        rate = win_rate(group.shares)
        counts = [str(n) for n in (rate.n, rate.wins, rate.draws, rate.losses)]
        cells.append([group.model, group.baseline, rate.percent(), *counts])
    return cells


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"--annotations {path}: there is no such file")
    if path.suffix == ".json":
        return read_objects(path, "--annotations")
    return [dict(row) for _, row in csv_rows(path)]


def _players(row: Mapping[str, Any], path: Path) -> tuple[str, str]:
    baseline = row.get("baseline", row.get("generator_1"))
    model = row.get("model", row.get("generator_2"))
    if baseline is None or model is None or "preference" not in row:
        raise UserError(
            f"--annotations {path}: needs the columns {NEEDED}; it has {', '.join(map(str, row))}"
        )
    return str(baseline), str(model)

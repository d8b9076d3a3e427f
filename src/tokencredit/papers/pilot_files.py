"""The files of a tuning: its rows, its terms, and the chosen numbers that an experiment reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import yaml

from tokencredit.papers.grids import Grid, Point, nested, point_of
from tokencredit.papers.pilots import Pilot, Terms
from tokencredit.store.files import csv_rows, read_json, reading, write_json, write_text
from tokencredit.store.sheets import csv_text

FOLDER: Final = "tuning"
COLUMNS: Final = tuple(item.name for item in fields(Pilot))
NUMBERS: Final = ("gold", "kl", "clip_fraction", "distinct_2", "sft_distinct_2", "seconds")


def rows_file(cells: Path, scale: str) -> Path:
    """Where the rows of an experiment's tuning are kept, beside its cells; its terms are the JSON
    file of the same name.
    """
    return cells / FOLDER / f"{scale}.csv"


def choice_file(conf: Path, experiment: str, scale: str, method: str) -> Path:
    """The option of the group `tuned` that holds the chosen numbers of a method."""
    return conf / "tuned" / f"{experiment}_{scale}" / f"{method}.yaml"


def write_pilots(path: Path, rows: Sequence[Pilot]) -> None:
    """Write the rows, atomically; a number that is NaN is an empty field."""
    lines: list[Sequence[object]] = [COLUMNS]
    lines += [[_field(row, name) for name in COLUMNS] for row in rows]
    write_text(path, csv_text(lines))


def read_pilots(path: Path) -> list[Pilot]:
    """The rows of a file, none if it is not there; `Damaged` where it holds something else."""
    if not path.is_file():
        return []
    with reading(path):
        return [_pilot(row) for _, row in csv_rows(path)]


def write_terms(path: Path, terms: Terms, commit: str | None) -> None:
    """Write the terms of the rows in `path` to the JSON file beside it."""
    write_json(
        path.with_suffix(".json"),
        {
            "schema_version": 1,
            "grids": {
                name: {key: list(values) for key, values in grid.items()}
                for name, grid in terms.grids.items()
            },
            "follows": dict(terms.follows),
            "steps": terms.steps,
            "first_steps": terms.first_steps,
            "share": terms.share,
            "seeds": list(terms.seeds),
            "bounds": {
                "kl": terms.kl,
                "clip_fraction": terms.clip_fraction,
                "distinct_2": terms.distinct_2,
            },
            "git_commit": commit,
        },
    )


def read_terms(path: Path) -> Terms:
    """The terms of the rows in `path`."""
    beside = path.with_suffix(".json")
    kept = read_json(beside, grids=dict, follows=dict, bounds=dict, seeds=list)
    with reading(beside):
        return Terms(
            grids=_grids(kept["grids"]),
            follows=kept["follows"],
            steps=int(kept["steps"]),
            share=float(kept["share"]),
            seeds=tuple(map(int, kept["seeds"])),
            **{name: float(value) for name, value in kept["bounds"].items()},
        )


def choice_text(point: Point, source: str) -> str:
    """The YAML of a choice; `source` says from what it was made."""
    head = f"# @package _global_\n# Chosen by `tokencredit tune` from {source}; not to be edited.\n"
    return head + str(yaml.safe_dump(nested(point), sort_keys=False))


def _grids(kept: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Grid]:
    return {
        name: {key: [float(value) for value in values] for key, values in grid.items()}
        for name, grid in kept.items()
    }


def _field(row: Pilot, name: str) -> object:
    value = getattr(row, name)
    if name == "point":
        return str(value)
    return "" if isinstance(value, float) and math.isnan(value) else value


def _pilot(row: Mapping[str, str]) -> Pilot:
    numbers: dict[str, Any] = {name: float(row[name] or "nan") for name in NUMBERS}
    return Pilot(
        method=row["method"],
        point=point_of(row["point"]),
        round=int(row["round"]),
        seed=int(row["seed"]),
        steps=int(row["steps"]),
        key=row["key"],
        status=row["status"],
        **numbers,
    )

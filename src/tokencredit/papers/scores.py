"""scores.csv: an oracle's score of each answer of a comparison; win rates are made from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokencredit.errors import UserError
from tokencredit.statistics.win_rates import Seed, WinMatrix, win_matrix
from tokencredit.store.files import csv_rows, read_json, write_text
from tokencredit.store.sheets import as_written, csv_text

SCORES: Final = "scores.csv"
FACTS: Final = "comparison.json"
COLUMNS: Final = ("method", "seed", "prompt", "score")
Line = tuple[str, Seed, int, float]
"""Method, seed, prompt, score."""
ByRun = Mapping[Seed, Mapping[int, float]]
"""The scores of a method, by seed and prompt."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The scores of one comparison, and how they were made."""

    path: Path
    methods: Mapping[str, ByRun]
    facts: Mapping[str, Any]
    """What comparison.json says; empty without one."""

    @property
    def about(self) -> str:
        """At which scale, with which model its runs were made; empty where that is not known."""
        return str(self.facts.get("about") or "")

    @property
    def place(self) -> str:
        """Folder and file, without the path to them."""
        return "/".join(self.path.parts[-2:])

    @property
    def measure(self) -> str:
        """The scorer's name, where an experiment has several: that of the folder."""
        return self.path.parent.name

    @property
    def prompts(self) -> int:
        """How many prompts each model answered."""
        return len(next(iter(next(iter(self.methods.values())).values())))

    def matrix(self, names: Sequence[str]) -> WinMatrix:
        """Win rates of these methods."""
        return win_matrix(
            {
                name: {
                    s: [own[row] for row in sorted(own)] for s, own in self.methods[name].items()
                }
                for name in names
            }
        )


def write_scores(lines: Iterable[Line], path: Path) -> None:
    """Write scores, each so that it is read back exactly."""
    rows = [
        [method, "" if seed is None else seed, prompt, repr(float(score))]
        for method, seed, prompt, score in lines
    ]
    write_text(path, csv_text([COLUMNS, *rows]))


def find_comparisons(paths: Sequence[Path]) -> list[Comparison]:
    """The files that are named if they hold scores, and every such scores.csv in a folder."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"--runs {path}: there is no such file or folder")
        inside = sorted(path.rglob(SCORES)) if path.is_dir() else [path]
        files += [file for file in inside if holds_scores(file)]
    return [read_scores(path) for path in dict.fromkeys(files)]


def holds_scores(path: Path) -> bool:
    """Whether the first line of a file names the columns of scores."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return set(COLUMNS) <= set(file.readline().strip().split(","))


def read_scores(path: Path) -> Comparison:
    """The comparison in a file; `UserError` unless all of its models answered the same prompts."""
    methods: dict[str, dict[Seed, dict[int, float]]] = {}
    for number, row in csv_rows(path):
        method, seed, prompt, score = _line(path, number, row)
        answers = methods.setdefault(method, {}).setdefault(seed, {})
        if prompt in answers:
            raise UserError(f"{path}, line {number}: prompt {prompt} is there twice")
        answers[prompt] = score
    if len(methods) < 2:
        raise UserError(f"{path}: needs the scores of two methods or more")
    (first, other), *rest = [(name, seed) for name, own in methods.items() for seed in own]
    for name, seed in rest:
        if methods[name][seed].keys() != methods[first][other].keys():
            raise UserError(
                f"{path}: {name}, seed {seed} did not answer the prompts that {first} did; write "
                "it again with `tokencredit judge compare --keep`"
            )
    mixed = [name for name, own in methods.items() if None in own and len(own) > 1]
    if mixed:
        raise UserError(f"{path}: {mixed[0]} has runs with a seed and without; give each its seed")
    beside = path.parent / FACTS
    return Comparison(path, methods, read_json(beside) if beside.is_file() else {})


def _line(path: Path, number: int, row: Mapping[str, str]) -> Line:
    try:
        seed = int(row["seed"]) if row["seed"] else None
        score = float(row["score"])
        if not math.isfinite(score):
            raise ValueError(f"{score} is no score")
        return as_written(row["method"]), seed, int(row["prompt"]), score
    except (KeyError, TypeError, ValueError) as error:
        columns = ", ".join(COLUMNS)
        raise UserError(f"{path}, line {number}: {error}; the columns are {columns}") from None

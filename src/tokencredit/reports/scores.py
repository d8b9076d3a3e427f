"""scores.csv: an oracle's score of each answer of a comparison; win rates are made from it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokencredit.atomic import read_json, write_text
from tokencredit.errors import UserError
from tokencredit.reports.winrate import WinMatrix, win_matrix

SCORES: Final = "scores.csv"
FACTS: Final = "comparison.json"
COLUMNS: Final = ("method", "seed", "prompt", "score")
Line = tuple[str, int | None, int, float]
"""Method, seed (None: one model that meets every seed of the others), prompt, score."""
ByRun = Mapping[int | None, Mapping[int, float]]
"""The scores of a method, by seed and prompt."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The scores of one comparison, and how they were made."""

    path: Path
    methods: Mapping[str, ByRun]
    facts: Mapping[str, Any]
    """What comparison.json says; empty without one."""

    @property
    def seeds(self) -> list[int]:
        """Seeds that all methods have which have any."""
        own = [set(runs) for runs in self.methods.values() if None not in runs]
        return sorted(seed for seed in set.intersection(*own) if seed is not None) if own else []

    @property
    def about(self) -> str:
        """At which scale, with which model its runs were made; empty where that is not known."""
        return str(self.facts.get("about") or "")

    def matrix(self, names: Sequence[str]) -> WinMatrix:
        """Win rates of these methods, over the seeds that all have."""
        kept: list[int | None] = [*self.seeds]
        scores = {}
        for name in names:
            runs = self.methods[name]
            seeds = [None] if None in runs else kept
            scores[name] = [[runs[seed][row] for row in sorted(runs[seed])] for seed in seeds]
        return win_matrix(scores)

    def left_out(self) -> list[str]:
        """Runs that have no counterpart of their seed, in words."""
        return [
            f"{name}, seed {seed}: not every method has this seed, so it meets none"
            for name, runs in self.methods.items()
            for seed in runs
            if seed is not None and seed not in self.seeds
        ]


def write_scores(lines: Iterable[Line], path: Path) -> None:
    """Write scores, each so that it is read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for method, seed, prompt, score in lines:
        writer.writerow([method, "" if seed is None else seed, prompt, repr(float(score))])
    write_text(path, text.getvalue())


def find_comparisons(paths: Sequence[Path]) -> list[Comparison]:
    """Every scores.csv that is named, or lies in a folder that is."""
    files: list[Path] = []
    for path in paths:
        if path.is_file():
            files += [path] if path.name == SCORES else []
        elif path.is_dir():
            files += sorted(path.rglob(SCORES))
        else:
            raise UserError(f"--runs {path}: there is no such file or folder")
    return [read_scores(path) for path in dict.fromkeys(files)]


def read_scores(path: Path) -> Comparison:
    """The comparison in a file; `UserError` unless all of its models answered the same prompts."""
    methods: dict[str, dict[int | None, dict[int, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            method, seed, prompt, score = _line(path, number, row)
            answers = methods.setdefault(method, {}).setdefault(seed, {})
            if prompt in answers:
                raise UserError(f"{path}, line {number}: prompt {prompt} is there twice")
            answers[prompt] = score
    runs = [(name, seed) for name, own in methods.items() for seed in own]
    if len(methods) < 2:
        raise UserError(f"{path}: needs the scores of two methods or more")
    (first, other), *rest = runs
    for name, seed in rest:
        if methods[name][seed].keys() != methods[first][other].keys():
            raise UserError(
                f"{path}: {name}, seed {seed} did not answer the prompts that {first} did; write "
                "it again with `tokencredit judge compare --keep`"
            )
    beside = path.parent / FACTS
    return Comparison(path, methods, read_json(beside) if beside.is_file() else {})


def _line(path: Path, number: int, row: Mapping[str, str]) -> Line:
    try:
        seed = int(row["seed"]) if row["seed"] else None
        score = float(row["score"])
        if not math.isfinite(score):
            raise ValueError(f"{score} is no score")
        return row["method"], seed, int(row["prompt"]), score
    except (KeyError, TypeError, ValueError) as error:
        columns = ", ".join(COLUMNS)
        raise UserError(f"{path}, line {number}: {error}; the columns are {columns}") from None

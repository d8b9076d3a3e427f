"""What people or a large model said of a task's answers, from the files of each benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.evaluation.annotations import read_annotations
from tokencredit.evaluation.mt_bench.files import read_judgements
from tokencredit.evaluation.mt_bench.scores import Grade
from tokencredit.papers.opinions import Benchmark, Opinion, Opinions
from tokencredit.statistics.win_rates import win_rate
from tokencredit.store.files import read_json, reading

TURNS: Final = (1, 2)
PERCENT: Final = 100
NORMAL: Final = 1.959964
"""Standard errors on each side of a mean that make a 95 % interval."""


def read_opinions(benchmark: Benchmark, paths: Sequence[Path]) -> Opinions:
    """The opinions in files, or in the files of a benchmark in folders; empty where there are none.

    Raises `UserError` for a file that holds something else.
    """
    pattern, read = READERS[benchmark]
    files = [file for path in paths for file in _files(path, pattern)]
    return read(files) if files else {}


def _files(path: Path, pattern: str) -> list[Path]:
    if not path.exists():
        raise UserError(f"--runs {path}: there is no such file or folder")
    return sorted(path.rglob(pattern)) if path.is_dir() else [path]


def graded(files: Sequence[Path]) -> Opinions:
    """MT-Bench: the grade of the first turn, of the second, and of both, by model."""
    judgements = read_judgements(files)
    found = {}
    for model in dict.fromkeys(one.model for one in judgements):
        own = [one for one in judgements if one.model == model]
        turns = [Grade.of(one for one in own if one.turn == turn) for turn in TURNS]
        found[model] = [_of_grade(grade) for grade in (*turns, Grade.of(own))]
    return found


def _of_grade(grade: Grade | None) -> Opinion | None:
    if grade is None:
        return None
    half = NORMAL * (grade.se or 0.0)
    return Opinion(grade.mean, grade.mean - half, grade.mean + half, grade.n)


def annotated(files: Sequence[Path]) -> Opinions:
    """AlpacaEval: per cent of prompts that the one model of the files wins, by its baselines."""
    groups, _ = read_annotations(files)
    models = sorted({group.model for group in groups})
    if len(models) > 1:
        raise UserError(
            f"--runs: the annotations are of {', '.join(models)}; give those of one model, which "
            "is compared with each of its baselines"
        )
    rates = {group.baseline: win_rate(group.shares) for group in groups}
    return {
        baseline: [Opinion(PERCENT * r.mean, PERCENT * r.low, PERCENT * r.high, r.n)]
        for baseline, r in rates.items()
    }


def voted(files: Sequence[Path]) -> Opinions:
    """People: per cent of votes as the most preferred, from what `judge people count` wrote."""
    if len(files) > 1:
        raise UserError(f"--runs: {' and '.join(map(str, files))} are two counts; give one")
    (path,) = files
    counted = read_json(path, most_preferred=list, samples=int)
    found, samples = {}, int(counted["samples"])
    with reading(path):
        for own in counted["most_preferred"]:
            share, low, high = (PERCENT * float(own[name]) for name in ("share", "low", "high"))
            found[str(own["method"])] = [Opinion(share, low, high, samples)]
    return found


READERS: Final[Mapping[Benchmark, tuple[str, Callable[[Sequence[Path]], Opinions]]]] = {
    Benchmark.mt_bench: ("*_single.jsonl", graded),
    Benchmark.alpaca_eval: ("annotations*.json", annotated),
    Benchmark.votes: ("people*.json", voted),
}
"""Which files of a folder are read, and how."""

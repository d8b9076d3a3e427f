"""Answers in the forms that AlpacaEval and MT-Bench read."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokencredit.canonical import digest
from tokencredit.evaluation.answers import Answer
from tokencredit.store.files import write_json, write_rows

LONGEST: Final = 55
"""Characters of a stem, of up to four bytes each; a file's name has at most 255 bytes."""


def model_outputs(answers: Mapping[str, Answer], name: str) -> list[dict[str, Any]]:
    """Rows of AlpacaEval's model_outputs.json."""
    return [
        {"instruction": answer.prompt, "output": answer.output, "generator": name}
        for answer in answers.values()
    ]


def mt_bench_answers(
    answers: Mapping[str, Answer], name: str, seconds: float
) -> list[dict[str, Any]]:
    """Rows of MT-Bench's model_answer/<model>.jsonl, one turn each; the question's id is the row.

    `seconds` is the time that is written, since the epoch.
    """
    return [
        {
            "question_id": answer.row,
            "answer_id": digest([name, item, answer.output]),
            "model_id": name,
            "choices": [{"index": 0, "turns": [answer.output]}],
            "tstamp": seconds,
        }
        for item, answer in answers.items()
    ]


def write_model_outputs(answers: Mapping[str, Answer], name: str, path: Path) -> Path:
    """Write the file of one generator for AlpacaEval."""
    write_json(path, model_outputs(answers, name))
    return path


def write_mt_bench(answers: Mapping[str, Answer], name: str, path: Path, seconds: float) -> Path:
    """Write the file of one generator for MT-Bench."""
    write_rows(path, mt_bench_answers(answers, name, seconds))
    return path


def file_names(names: Sequence[str]) -> dict[str, str]:
    """By name, the stem of its file: that of `file_name`, with a hash behind where another has it
    too. Some systems take capitals, and other forms of a letter, for equal.
    """
    stems = {name: file_name(name) for name in names}
    hashed = {name: f"{stem}-{digest(name)}" for name, stem in stems.items()}
    alike = Counter(map(_folded, stems.values()))
    found = {n: s if alike[_folded(s)] == 1 else hashed[n] for n, s in stems.items()}
    distinct = len(set(map(_folded, found.values()))) == len(found)
    return found if distinct else hashed  # a name may look like another's hash


def file_name(name: str) -> str:
    """`name` as the stem of a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip(".")[:LONGEST] or "model"


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold()

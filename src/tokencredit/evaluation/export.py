"""Answers in the forms that AlpacaEval and MT-Bench read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokencredit.atomic import write_text
from tokencredit.canonical import digest
from tokencredit.evaluation.answers import Answer


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


def write_model_outputs(answers: Mapping[str, Answer], name: str, folder: Path) -> Path:
    """Write <name>.json for AlpacaEval."""
    path = folder / f"{file_name(name)}.json"
    text = json.dumps(model_outputs(answers, name), indent=2, ensure_ascii=False)
    write_text(path, text + "\n")
    return path


def write_mt_bench(answers: Mapping[str, Answer], name: str, folder: Path, seconds: float) -> Path:
    """Write <name>.jsonl for MT-Bench."""
    path = folder / f"{file_name(name)}.jsonl"
    rows = mt_bench_answers(answers, name, seconds)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def file_name(name: str) -> str:
    """`name` as the stem of a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip(".") or "model"

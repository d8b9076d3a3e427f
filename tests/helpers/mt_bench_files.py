"""Questions, answers, and judgements of MT-Bench, as FastChat writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUESTIONS: list[dict[str, Any]] = [
    {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Make it shorter."]},
    {"question_id": 111, "category": "math", "turns": ["What is 2 + 2?", "And twice that?"],
     "reference": ["4", "8"]},
    {"question_id": 121, "category": "coding", "turns": ["Sort a list.", "Now backwards."]},
]  # fmt: skip


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(model: str, words: str, numbers: tuple[int, ...] = (81, 111, 121)) -> list[dict[str, Any]]:
    """Answers of two turns in FastChat's form."""
    return [
        {
            "question_id": number,
            "answer_id": f"{model}{number}",
            "model_id": model,
            "choices": [{"index": 0, "turns": [f"{words} {number} one", f"{words} {number} two"]}],
            "tstamp": 1.5,
        }
        for number in numbers
    ]


GOOD = {"question_id": 81, "model": "m", "judge": ["g", "s"], "score": 5, "turn": 1}

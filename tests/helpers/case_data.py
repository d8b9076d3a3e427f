"""Small data files of the kinds that people bring along."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GOOD = ["lovely", "warm", "clever", "moving", "bright", "delightful"]
BAD = ["dull", "cold", "clumsy", "tedious", "bleak", "dreadful"]
NOUNS = ["plot", "score", "cast", "ending", "pace", "dialogue", "camera", "villain"]
SHORT = [
    "steps=2",
    "model.context=192",
    "sft.max_tokens=6000",
    "sft.max_length=96",
    "reward_model.max_tokens=6000",
    "reward_model.max_length=96",
    "tracking=disabled",
    "run.figures=false",
]
"""Overrides of a run of two steps whose stages train for seconds."""
PAID_BY_FUNCTION = [
    "dataset.label_column=null",
    "oracle.enabled=false",
    "judge=function",
    "reward_scheme=sparse",
]
"""With `judge.function=FILE:NAME`: a run without a reward model."""


def review(number: int, words: int = 30) -> dict[str, Any]:
    """A labelled review of about so many words, the same for the same number; odd ones are good."""
    draw = random.Random(number)
    adjectives = GOOD if number % 2 else BAD
    sentences = [
        f"The {draw.choice(NOUNS)} was {draw.choice(adjectives)} and the {draw.choice(NOUNS)} "
        f"felt {draw.choice(adjectives)} in film {number}."
        for _ in range(max(1, words // 10))
    ]
    return {"text": " ".join(sentences), "label": number % 2}


def answers(number: int) -> tuple[str, str]:
    """A good and a bad answer to the question what film `number` was like."""
    good, better, bad = GOOD[number % 6], GOOD[(number + 1) % 6], BAD[number % 6]
    return f"It was {good} and {better}.", f"It was {bad}."


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """`path`, with one row a line, in ASCII."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path

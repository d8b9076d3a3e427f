"""MT-Bench's files, in the form of FastChat: questions, answers of models, and judgements on them.

`question.jsonl`, `model_answer/MODEL.jsonl`, and `model_judgment/JUDGE_single.jsonl` hold one
object a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokencredit.canonical import digest
from tokencredit.errors import UserError, require
from tokencredit.store.jsonl import read_objects

QUESTIONS, ANSWERS, JUDGEMENTS, REFERENCES = (
    "--questions",
    "--answers",
    "--judgements",
    "--references",
)
NOT_FOUND: Final = -1
"""FastChat's score of a judgement in which it found no rating."""
SCALE: Final = (1, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked, one turn after the other."""

    number: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    """Right answers to the turns, where there are any."""


Conversations = dict[str, dict[int, tuple[str, ...]]]
"""What each model said, by its name, then by the question's number: an answer a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge said of one answer."""

    question: int
    model: str
    judge: str
    turn: int
    """From 1."""
    score: float | None
    """From 1 to 10; None where no rating was found."""
    asked: str = ""
    said: str = ""


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; raises `UserError` for one that says too little or comes twice."""
    rows = read_objects(path, QUESTIONS)
    require(bool(rows), QUESTIONS, str(path), "holds no questions")
    found = [_question(row, f"{QUESTIONS} {path}, row {n}") for n, row in enumerate(rows, start=1)]
    seen: set[int] = set()
    for question in found:
        if question.number in seen:
            raise UserError(f"{QUESTIONS} {path}: question_id {question.number} repeats")
        seen.add(question.number)
    return found


def read_conversations(paths: Sequence[Path], option: str = ANSWERS) -> Conversations:
    """The answers in all files, of several choices the first; raises `UserError` for an answer that
    comes twice or is none."""
    found: Conversations = {}
    for path in paths:
        for number, row in enumerate(read_objects(path, option), start=1):
            where = f"{option} {path}, row {number}"
            question, model = _number(row, where), _text(row, "model_id", where)
            choices = row.get("choices")
            first = choices[0] if isinstance(choices, list) and choices else None
            turns = _turns(first if isinstance(first, dict) else {}, where, "choices[0].turns")
            if question in found.setdefault(model, {}):
                raise UserError(f"{where}: {model} has answered question {question} already")
            found[model][question] = turns
        if not found:
            raise UserError(f"{option} {path}: holds no answers")
    return found


def conversation_rows(
    name: str, own: Mapping[int, Sequence[str]], seconds: float
) -> list[dict[str, object]]:
    """Rows of one model's file; `seconds` is the time that is written, since the epoch."""
    return [
        {
            "question_id": question,
            "answer_id": digest([name, question, list(turns)]),
            "model_id": name,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": seconds,
        }
        for question, turns in own.items()
    ]


def read_judgements(paths: Sequence[Path]) -> list[Judgement]:
    """The judgements of all files, each once: of several on one answer the last, as it stands.

    A score of −1, or off the scale, is a rating that was not found. Raises `UserError` for a row
    that is no single-answer grade, and where more than one judge speaks.
    """
    found: dict[tuple[str, int, int], Judgement] = {}
    for path in paths:
        for number, row in enumerate(read_objects(path, JUDGEMENTS), start=1):
            one = _judgement(row, f"{JUDGEMENTS} {path}, row {number}")
            found[one.model, one.question, one.turn] = one
    require(bool(found), JUDGEMENTS, ", ".join(map(str, paths)), "hold no judgements")
    judges = sorted({one.judge for one in found.values()})
    require(
        len(judges) == 1, JUDGEMENTS, ", ".join(judges), "are several judges; give one at a time"
    )
    return list(found.values())


def judgement_rows(judgements: Iterable[Judgement], seconds: float) -> Iterator[dict[str, object]]:
    """Rows of a judge's file."""
    for one in judgements:
        yield {
            "question_id": one.question,
            "model": one.model,
            "judge": [one.judge, "single" if one.turn == 1 else "single-multi-turn"],
            "user_prompt": one.asked,
            "judgment": one.said,
            "score": NOT_FOUND if one.score is None else one.score,
            "turn": one.turn,
            "tstamp": seconds,
        }


def with_references(questions: Sequence[Question], known: Conversations) -> list[Question]:
    """The questions with right answers from a file like a model's; those in it count before their
    own. Raises `UserError` unless the file is of one model."""
    require(len(known) == 1, REFERENCES, ", ".join(known), "must be the answers of one model")
    (right,) = known.values()
    return [
        Question(
            number=q.number,
            category=q.category,
            turns=q.turns,
            reference=right.get(q.number, q.reference),
        )
        for q in questions
    ]


def on_scale(score: float) -> float | None:
    """The score, or None where it is none."""
    return score if math.isfinite(score) and SCALE[0] <= score <= SCALE[1] else None


def _question(row: Mapping[str, object], where: str) -> Question:
    reference = row.get("reference")
    if reference is not None and not (
        isinstance(reference, list) and all(isinstance(text, str) for text in reference)
    ):
        raise UserError(f"{where}: reference must be a list of texts, one a turn")
    return Question(
        number=_number(row, where),
        category=_text(row, "category", where),
        turns=_turns(row, where, "turns"),
        reference=tuple(reference or ()),
    )


def _judgement(row: Mapping[str, object], where: str) -> Judgement:
    judge, score, turn = row.get("judge"), row.get("score"), row.get("turn")
    named = judge[0] if isinstance(judge, list) and judge else judge
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not isinstance(named, str) or not number or type(turn) is not int or turn < 1:
        raise UserError(
            f"{where}: needs judge, a score, and a turn from 1 on, as FastChat's single-answer "
            f"grading writes them; it has {', '.join(row)}"
        )
    assert isinstance(score, int | float)  # `number` says so
    return Judgement(
        question=_number(row, where),
        model=_text(row, "model", where),
        judge=named,
        turn=turn,
        score=on_scale(float(score)),
        asked=str(row.get("user_prompt", "")),
        said=str(row.get("judgment", "")),
    )


def _number(row: Mapping[str, object], where: str) -> int:
    number = row.get("question_id")
    if type(number) is not int:
        raise UserError(f"{where}: needs question_id, a whole number")
    return number


def _text(row: Mapping[str, object], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: needs {name}, a text")
    return value


def _turns(row: Mapping[str, object], where: str, name: str) -> tuple[str, ...]:
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(x, str) for x in turns):
        raise UserError(f"{where}: needs {name}, a list of texts")
    return tuple(turns)

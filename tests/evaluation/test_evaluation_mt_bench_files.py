"""Scores of MT-Bench by hand, and files that are none of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mt_bench_files import GOOD, QUESTIONS, jsonl, said
from tokencredit.errors import UserError
from tokencredit.evaluation.mt_bench.files import (
    Judgement,
    Question,
    read_conversations,
    read_judgements,
    read_questions,
    with_references,
)
from tokencredit.evaluation.mt_bench.scores import scores


def judged(question: int, turn: int, score: float | None, model: str = "m") -> Judgement:
    return Judgement(question=question, model=model, judge="j", turn=turn, score=score)


def test_scores_by_hand() -> None:
    """Ratings 8, 6 of one question and 2 of another, whose second turn has none: 16 / 3.

    Residuals of the questions: 14 − 2 · 16/3 = 10/3 and −10/3: √(2 · (100/9 + 100/9)) / 3 = 20/9.
    """
    questions = [Question(number=n, category=c, turns=("a", "b")) for n, c in ((1, "x"), (2, "y"))]
    given = [judged(1, 1, 8), judged(1, 2, 6), judged(2, 1, 2), judged(2, 2, None)]
    (found,) = scores(given, questions)
    assert found.overall is not None and found.overall.n == 3
    assert found.overall.mean == pytest.approx(16 / 3)
    assert found.overall.se == pytest.approx(20 / 9)
    by_turn = [found.turns[turn] for turn in (1, 2)]
    assert [x and x.mean for x in by_turn] == [5, 6]
    assert [x and x.mean for x in found.categories.values()] == [7, 2]
    assert found.excluded == 1
    (none,) = scores([judged(1, 1, None)], questions)
    assert none.overall is None and none.categories == {"x": None}


def test_a_judgement_that_was_made_again_counts_once(tmp_path: Path) -> None:
    row = {
        "question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "p",
        "judgment": "[[5]]", "score": 5, "turn": 1, "tstamp": 1.0,
    }  # fmt: skip
    path = jsonl(tmp_path / "j.jsonl", [row, row | {"score": 7}, row | {"turn": 2, "score": -1}])
    found = read_judgements([path])
    assert [(one.turn, one.score, one.judge) for one in found] == [
        (1, 7, "gpt-4"),
        (2, None, "gpt-4"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "5"}, "row 1: needs judge, a score, and a turn"),
        ({"score": True}, "row 1: needs judge, a score, and a turn"),
        ({"turn": 0}, "row 1: needs judge, a score, and a turn"),
        ({"judge": None}, "row 1: needs judge, a score, and a turn"),
        ({"model": ""}, "row 1: needs model, a text"),
        ({"question_id": "81"}, "row 1: needs question_id, a whole number"),
    ],
)
def test_judgements_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_judgements([jsonl(tmp_path / "j.jsonl", [GOOD | change])])


def test_two_judges_are_not_mixed(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"judge": ["h", "s"], "turn": 2}]
    with pytest.raises(UserError, match="--judgements = 'g, h': are several judges; give one at"):
        read_judgements([jsonl(tmp_path / "j.jsonl", rows)])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no questions"),
        ([QUESTIONS[0], QUESTIONS[0]], "question_id 81 repeats"),
        ([QUESTIONS[0] | {"turns": []}], "row 1: needs turns, a list of texts"),
        ([QUESTIONS[0] | {"turns": "a"}], "row 1: needs turns, a list of texts"),
        ([QUESTIONS[0] | {"category": 3}], "row 1: needs category, a text"),
        ([QUESTIONS[0] | {"reference": "4"}], "row 1: reference must be a list of texts"),
    ],
)
def test_questions_that_are_none(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_questions(jsonl(tmp_path / "q.jsonl", rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no answers"),
        (said("m", "x") + said("m", "y", (81,)), "row 4: m has answered question 81 already"),
        (
            [said("m", "x")[0] | {"choices": []}],
            r"row 1: needs choices\[0\].turns, a list of texts",
        ),
        ([said("m", "x")[0] | {"model_id": None}], "row 1: needs model_id, a text"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_conversations([jsonl(tmp_path / "a.jsonl", rows)])


def test_right_answers_from_a_file_of_their_own(tmp_path: Path) -> None:
    asked = jsonl(tmp_path / "question.jsonl", QUESTIONS)
    path = jsonl(tmp_path / "gpt-4.jsonl", said("gpt-4", "right", (121,)))
    found = with_references(read_questions(asked), read_conversations([path]))
    assert [q.reference for q in found] == [(), ("4", "8"), ("right 121 one", "right 121 two")]
    two = read_conversations([path, jsonl(tmp_path / "b.jsonl", said("b", "x", (1,)))])
    with pytest.raises(UserError, match="must be the answers of one model"):
        with_references(read_questions(asked), two)

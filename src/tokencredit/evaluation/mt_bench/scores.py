"""Scores of MT-Bench from judgements: by turn, over both, and by category.

The mean over all ratings that were found, as FastChat's; its standard error is that over questions,
whose two turns are not independent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tokencredit.errors import UserError
from tokencredit.evaluation.mt_bench.files import JUDGEMENTS, QUESTIONS, Judgement, Question
from tokencredit.papers.win_tables import table
from tokencredit.statistics.intervals import ratio_error
from tokencredit.statistics.rounding import rounded, with_error


@dataclass(frozen=True, slots=True)
class Grade:
    """The mean of ratings, its standard error over questions, and how many ratings it is of."""

    mean: float
    se: float | None
    """None of one question."""
    n: int

    @classmethod
    def of(cls, judgements: Iterable[Judgement]) -> Grade | None:
        """The grade of those with a rating; None without one."""
        by_question: dict[int, list[float]] = defaultdict(list)
        for one in judgements:
            if one.score is not None:
                by_question[one.question].append(one.score)
        if not by_question:
            return None
        sums = [sum(values) for values in by_question.values()]
        counts = [len(values) for values in by_question.values()]
        se = ratio_error(sums, counts) if len(counts) > 1 else None
        return cls(sum(sums) / sum(counts), se, sum(counts))

    def text(self) -> str:
        """`6.125 ± 0.310`."""
        return rounded(self.mean) if self.se is None else with_error(self.mean, self.se)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one model came to."""

    model: str
    overall: Grade | None
    """Over all turns."""
    turns: Mapping[int, Grade | None]
    """From 1."""
    categories: Mapping[str, Grade | None]
    excluded: int
    """Answers in whose judgement no rating was found."""


def scores(judgements: Sequence[Judgement], questions: Sequence[Question]) -> list[Scores]:
    """The scores of each model, the best first. Raises `UserError` for a judgement on a question
    that is not among `questions`."""
    category = {question.number: question.category for question in questions}
    for one in judgements:
        if one.question not in category:
            raise UserError(
                f"{JUDGEMENTS}: question {one.question}, judged of {one.model}, is none of "
                f"{QUESTIONS}; give the questions that were asked"
            )
    models = dict.fromkeys(one.model for one in judgements)
    found = [_of([one for one in judgements if one.model == model], category) for model in models]
    return sorted(found, key=lambda s: np.inf if s.overall is None else -s.overall.mean)


def _of(own: Sequence[Judgement], category: Mapping[int, str]) -> Scores:
    """The scores of one model, all of whose judgements are given."""
    turns = sorted({one.turn for one in own})
    names = dict.fromkeys(category[one.question] for one in own)
    return Scores(
        model=own[0].model,
        overall=Grade.of(own),
        turns={turn: Grade.of(one for one in own if one.turn == turn) for turn in turns},
        categories={
            name: Grade.of(one for one in own if category[one.question] == name) for name in names
        },
        excluded=sum(one.score is None for one in own),
    )


def report(
    judgements: Sequence[Judgement], questions: Sequence[Question]
) -> tuple[str, list[dict[str, object]]]:
    """The tables in Markdown, and the same for JSON."""
    found = scores(judgements, questions)
    turns = sorted({turn for own in found for turn in own.turns})
    names = list(dict.fromkeys(name for own in found for name in own.categories))
    rows = [
        [
            own.model,
            *(_cell(own.turns.get(turn)) for turn in turns),
            _cell(own.overall),
            str(0 if own.overall is None else own.overall.n),
            str(own.excluded),
        ]
        for own in found
    ]
    head = ["model", *(f"turn {turn}" for turn in turns), "all turns", "ratings", "no rating"]
    by_category = [
        [name, *(_cell(own.categories.get(name)) for own in found)] for name in sorted(names)
    ]
    told = [table(head, rows), table(["category", *(own.model for own in found)], by_category)]
    return "\n\n".join(told), [asdict(own) for own in found]


def _cell(grade: Grade | None) -> str:
    return "–" if grade is None else grade.text()

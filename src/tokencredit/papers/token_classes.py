"""Claims about classes of words: what the advantages of their tokens come to, over pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.papers.claims import FileClaim
from tokencredit.papers.token_maps import COLUMNS
from tokencredit.papers.verdicts import Finding, difference, judge, nothing
from tokencredit.statistics.curves import mean
from tokencredit.statistics.intervals import mean_ci, p_value
from tokencredit.store.files import csv_rows

ADVANTAGES: Final = "advantages.csv"
"""In a stage's folder, and beside an experiment's page: a line for each token, without its text."""
CLASS: Final = "class"
VALUE: Final = "advantage"
HEAD: Final = (*COLUMNS, CLASS, VALUE)
SIDES: Final = ("chosen", "rejected")
"""Which answer of its pair a token belongs to."""


@dataclass(slots=True, kw_only=True)
class ClassClaim(FileClaim):
    """That the tokens of a class of words have advantages of one sign.

    Its statistic: the mean over a pair's tokens of the class, both answers together, then the mean
    over the pairs that have any, with the t interval of those pairs.
    """

    kind: ClassVar[str] = "token_classes"
    file: ClassVar[str] = ADVANTAGES

    word_class: str
    """The class."""
    positive: bool
    """Whether the advantages are said to be above 0, else below."""

    def judged_by(self, path: Path) -> Finding:
        """The verdict of the advantages in a file."""
        return judge_class(self, class_means(path).get(self.word_class, {}))


def judge_class(claim: ClassClaim, values: Mapping[int, float]) -> Finding:
    """The verdict on the mean of each pair that has a word of the class."""
    if len(values) < 2:
        return nothing(f"{len(values)} pairs have {claim.word_class} words")
    x = mean_ci(list(values.values()))
    p = p_value(x)
    text = f"mean advantage of {claim.word_class} words = {difference(x)}, p = {p:.2g}"
    verdict = judge(x.low, x.high, 0, above=claim.positive, margin=claim.margin)
    return Finding(verdict, text, x.n, p)


def class_means(path: Path) -> dict[str, dict[int, float]]:
    """By class of words, the mean advantage of its tokens in each pair, by the pair's row.

    Raises `UserError` that names a line which is not one of a token.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for number, line in csv_rows(path):
        row, kind, value = _token(path, number, line)
        found.setdefault(kind, {}).setdefault(row, []).append(value)
    require(bool(found), "--runs", str(path), "holds no tokens")
    return {kind: {row: mean(own) for row, own in rows.items()} for kind, rows in found.items()}


def _token(path: Path, number: int, line: Mapping[str, str]) -> tuple[int, str, float]:
    """The pair, class, and advantage of a token."""
    try:
        row, kind, value = int(line["row"]), line[CLASS], float(line[VALUE])
        if line["answer"] not in SIDES or not kind or not math.isfinite(value):
            raise ValueError(f"{line['answer']!r}, {kind!r}, {value}: is no token of an answer")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}, line {number}: {error}; the columns are {', '.join(HEAD)}"
        ) from None
    return row, kind, value

"""Which tokens an edit took out, put in, or left alone: a Levenshtein alignment of two answers.

Equal ids are always matched; where several operations are equally short, a token is deleted before
one is added, and added before one is substituted, read from the end (papers.md §4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from tokencredit.errors import UserError

KEPT, DELETED, ADDED, SUBSTITUTED = "UDAS"
NEGATIVE, NEUTRAL, POSITIVE = 0.0, 0.5, 1.0
"""The targets of a token that the edit took out, left alone, and put in."""

REJECTED: Final = {KEPT: NEUTRAL, DELETED: NEGATIVE, SUBSTITUTED: NEGATIVE}
REVISED: Final = {KEPT: NEUTRAL, ADDED: POSITIVE, SUBSTITUTED: POSITIVE}


def table_of(rejected: Sequence[int], revised: Sequence[int]) -> npt.NDArray[np.int32]:
    """The distances of all beginnings, (m + 1) × (n + 1): entry i, j is that of the first i ids of
    `rejected` and the first j of `revised`, with unit costs.

    A whole row is computed at once: the best way into a cell from the row above, then additions
    along the row, which are a running minimum.
    """
    target, steps = np.asarray(revised, dtype=np.int64), np.arange(len(revised) + 1, dtype=np.int32)
    table = np.empty((len(rejected) + 1, len(revised) + 1), dtype=np.int32)
    table[0] = steps
    for i, token in enumerate(rejected, start=1):
        above = table[i - 1]
        table[i] = above + 1
        np.minimum(table[i, 1:], above[:-1] + (target != token), out=table[i, 1:])
        table[i] = np.minimum.accumulate(table[i] - steps) + steps
    return table


def align(rejected: Sequence[int], revised: Sequence[int]) -> tuple[str, str]:
    """One letter for every token of each: U kept, D deleted, A added, S substituted.

    `rejected` has U, D, and S; `revised` has U, A, and S. The ids kept are the same on both sides,
    and D, A, and S (of one side) add up to the distance.
    """
    table = table_of(rejected, revised)
    i, j = len(rejected), len(revised)
    before: list[str] = []
    after: list[str] = []
    while i or j:
        if i and j and rejected[i - 1] == revised[j - 1]:
            before.append(KEPT)
            after.append(KEPT)
            i, j = i - 1, j - 1
        elif i and table[i - 1, j] + 1 == table[i, j]:
            before.append(DELETED)
            i -= 1
        elif j and table[i, j - 1] + 1 == table[i, j]:
            after.append(ADDED)
            j -= 1
        else:
            before.append(SUBSTITUTED)
            after.append(SUBSTITUTED)
            i, j = i - 1, j - 1
    return "".join(reversed(before)), "".join(reversed(after))


def targets(
    rejected: Sequence[int], revised: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The soft target of every token: 0 for one of `rejected` that was deleted or substituted, 1
    for one of `revised` that was added or substituted, ½ for one that was kept."""
    before, after = align(rejected, revised)
    return tuple(REJECTED[letter] for letter in before), tuple(REVISED[letter] for letter in after)


def check_lengths(
    labels: tuple[Sequence[object], Sequence[object]],
    ids: tuple[Sequence[int], Sequence[int]],
    texts: tuple[str, str],
) -> None:
    """Raise `UserError` unless every token of the rejected and of the revised answer has one label.

    `ids` are those that the model reads in context; labels of ids that were made in another way
    would stand beside the wrong tokens. All three have the rejected answer first.
    """
    lengths = [len(side) for side in labels], [len(side) for side in ids]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"labels: {lengths[0][0]} and {lengths[0][1]} labels for {lengths[1][0]} and "
            f"{lengths[1][1]} tokens in context; label the ids that the model reads. "
            f"Rejected: {texts[0]!r}. Revised: {texts[1]!r}"
        )


def edit_ratio(rejected: Sequence[int], revised: Sequence[int]) -> float:
    """The distance as a share of the longer of the two: 0 where nothing changed, 1 where all did.

    Two empty sequences have ratio 0."""
    return Levenshtein.distance(rejected, revised) / max(len(rejected), len(revised), 1)

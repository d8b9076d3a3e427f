"""Edits: the alignment, its tie-break, its counting identities, and the targets made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from tokencredit.data.edits import align, check_lengths, edit_ratio, targets
from tokencredit.errors import UserError

CASES = [  # papers.md §4.3: rejected, revised, distance, letters of each
    ("abcd", "axcde", 2, "USUU", "USUUA"),
    ("ab", "ba", 2, "UD", "AU"),
    ("aab", "ab", 1, "DUU", "UU"),
    ("ab", "aab", 1, "UU", "AUU"),
    ("aaaa", "aa", 2, "DDUU", "UU"),
    ("abab", "baba", 2, "UUUD", "AUUU"),
    ("kitten", "sitting", 3, "SUUUSU", "SUUUSUA"),
    ("abc", "xyz", 3, "SSS", "SSS"),
    ("abc", "", 3, "DDD", ""),
    ("", "abc", 3, "", "AAA"),
    ("xay", "bxyc", 3, "UDU", "AUUA"),
]
IDS = st.lists(st.integers(0, 3), max_size=12)


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.mark.parametrize(("rejected", "revised", "least", "before", "after"), CASES)
def test_the_cases_of_the_paper(
    rejected: str, revised: str, least: int, before: str, after: str
) -> None:
    assert align(ids(rejected), ids(revised)) == (before, after)
    assert Levenshtein.distance(ids(rejected), ids(revised)) == least


@given(IDS, IDS)
def test_the_letters_count_what_they_must(rejected: list[int], revised: list[int]) -> None:
    before, after = align(rejected, revised)
    assert (len(before), len(after)) == (len(rejected), len(revised))
    assert before.count("S") == after.count("S")
    assert len(rejected) - before.count("D") == len(revised) - after.count("A")
    edits = before.count("D") + after.count("A") + after.count("S")
    assert edits == Levenshtein.distance(rejected, revised)
    kept = [
        [t for t, o in zip(side, letters, strict=True) if o == "U"]
        for side, letters in ((rejected, before), (revised, after))
    ]
    assert kept[0] == kept[1]


def test_targets_of_a_substitution_and_an_addition() -> None:
    assert targets(ids("abcd"), ids("axcde")) == ((0.5, 0, 0.5, 0.5), (0.5, 1, 0.5, 0.5, 1))


def test_labels_of_other_ids_are_an_error_that_shows_both_texts() -> None:
    with pytest.raises(UserError, match=r"2 and 1 labels for 3 and 1 tokens.*'so bad'.*'good'"):
        check_lengths(("UU", "U"), ([1, 2, 3], [1]), ("so bad", "good"))
    check_lengths(("UU", "U"), ([1, 2], [1]), ("bad", "good"))


def test_the_ratio_is_a_share_of_the_longer_answer() -> None:
    assert edit_ratio(ids("abcd"), ids("axcde")) == pytest.approx(2 / 5)
    assert edit_ratio([], []) == 0


def test_five_hundred_tokens_are_aligned_at_once() -> None:
    rejected = [i * i % 97 for i in range(500)]
    before, _ = align(rejected, [*rejected[:250], -1, *rejected[251:]])
    assert before == "U" * 250 + "S" + "U" * 249

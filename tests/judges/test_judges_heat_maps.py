"""Faults that are put into answers by rule, and what a discriminator pays to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from built_stages import build, furnish, stage_of
from scripts import loaded
from tokencredit.papers.kinds import find_any_figure
from tokencredit.papers.token_maps import TokenMap
from tokencredit.surface.credited import Credit

SCRIPT = Path(__file__).parents[2] / "experiments" / "tlcr" / "heat_maps.py"
TEXT = " saw the movie in 1994 with Elvis and it was a joy"
OTHERS = [TEXT, " then Robert came in 2001 and sang"]


@pytest.fixture(scope="module")
def maps() -> Any:
    return loaded(SCRIPT)


def words(text: str, span: tuple[int, int]) -> str:
    return text[slice(*span)]


def test_a_misspelling_exchanges_two_inner_letters(maps: Any) -> None:
    made = maps.misspelt(TEXT, OTHERS)
    before, after = words(TEXT, made.before), words(made.text, made.after)
    assert before in {"movie", "Elvis"} and before != after
    assert sorted(before) == sorted(after) and before[0] == after[0] and before[-1] == after[-1]
    assert made.text.replace(after, before) == TEXT
    assert maps.misspelt(" so bad a sea", OTHERS) is None


def test_a_repetition_says_two_words_twice(maps: Any) -> None:
    made = maps.repeated(TEXT, OTHERS)
    twice = words(made.text, made.after)
    assert twice == words(TEXT, made.before) and len(twice.split()) == 2
    assert made.text.replace(f"{twice} {twice}", twice) == TEXT
    assert maps.repeated(" alone", OTHERS) is None


def test_a_wrong_fact_is_a_name_or_number_of_another_text(maps: Any) -> None:
    made = maps.wrong_fact(TEXT, OTHERS)
    assert (words(TEXT, made.before), words(made.text, made.after)) == ("Elvis", "Robert")
    made = maps.wrong_fact(" was made in 1994 or so", OTHERS)
    assert words(made.text, made.after) == "2001"
    assert maps.wrong_fact(" nothing in it", OTHERS) is None


def test_a_span_has_the_mean_reward_of_the_tokens_that_reach_into_it(maps: Any) -> None:
    credit = Credit(
        prompts=["a"], ids=[[1, 2, 3]], tokens=[[" ab", "cd", " e"]], rewards=[[1.0, 2.0, 4.0]],
        evidence=[[0.0] * 3], scores=[0.0], finished=[True], notes={},
    )  # fmt: skip
    assert maps.reward_of(credit, 0, (1, 3)) == 1  # " ab" ends at 3
    assert maps.reward_of(credit, 0, (2, 4)) == 1.5
    assert maps.reward_of(credit, 0, (5, 7)) == 4


def test_what_the_figure_shows_has_every_fault_and_is_not_long(maps: Any, tmp_path: Path) -> None:
    answers = [maps.WRITTEN, *maps.FAULTS]

    def text(row: int, answer: str, said: str = " one two") -> Any:
        marked = None if answer == maps.WRITTEN else (1, 4)
        return maps.Shown(row, answer, "a", said, marked, [" one", " two", "<end>"], [0.5, -1, 9])

    rows = [text(5, x) for x in answers] + [text(6, x) for x in answers[1:]]
    rows += [text(7, x, "x" * 200) for x in answers] + [text(8, x) for x in answers]
    kept = maps.kept_together(rows, 3)
    assert [(x.row, x.answer) for x in kept] == [(row, x) for row in (5, 8) for x in answers]
    assert [x.row for x in maps.kept_together(rows, 1)] == [5] * len(answers)
    maps.write_texts(kept, tmp_path / "heat_maps")
    entry = find_any_figure("tlcr/figure8")
    assert isinstance(entry, TokenMap)
    (tmp_path / "heat_maps" / "faults.json").write_text("{}")
    drawn = entry.coloured(tmp_path)
    assert [token.value for token in drawn[0].tokens] == [0.5, -1], "the end token has no text"
    assert [x.text.marked for x in drawn[:2]] == [None, (1, 4)]
    assert {x.name for x in drawn} == set(entry.methods.values())


def test_a_trained_discriminator_is_read(maps: Any, tmp_path: Path) -> None:
    furnish(tmp_path)
    folder = build(stage_of("discriminator", tmp_path, tmp_path / "store")).path
    credit = maps.judged([" the film", " it"], [" was bad", " was a good one"], folder)
    assert len(credit) == 2 and all(-1 <= x <= 1 for row in credit.rewards for x in row)
    assert "".join(credit.tokens[0]).removesuffix("<|endoftext|>") == " was bad"
    span = (len(" was "), len(" was bad"))
    assert -1 < maps.reward_of(credit, 0, span) < 1

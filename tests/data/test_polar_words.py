"""The list of words that praise or blame, and the reviser that replaces by it."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import pytest

from tokencredit.data.polar_words import (
    by_list,
    read_words,
    shipped_list,
    shipped_words,
)
from tokencredit.data.revisions import text_edit_ratio
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge

ROOT = Path(__file__).parents[2]
WORDS = shipped_words()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("The plot was bad.", "The plot was good."),
        ("Terrible! The WORST film; a boring mess,", "Terrific! The BEST film; an exciting gem,"),
        ("An awful film, and a unfair one.", "A wonderful film, and a fair one."),
        ("a cruel act of dishonest men", "a kind act of honest men"),
        ("It isn't bad, not a bad film, but bad.", "It isn't bad, not a bad film, but good."),
        ("The badge hated nobody.", "The badge loved nobody."),
        ("A dishonest, useless man", "An honest, useful man"),
    ],
)
def test_words_become_their_opposites(before: str, after: str) -> None:
    assert WORDS.better(before, 0) == after


def test_a_text_without_such_a_word_stays() -> None:
    assert WORDS.better("We saw it on Monday.", 1) == "We saw it on Monday."


def test_a_word_without_an_opposite_is_drawn_of_its_class_by_the_record() -> None:
    drawn = {WORDS.better("contrived", key) for key in range(300)}
    assert drawn <= set(WORDS.praise["adjective"]) and len(drawn) > 20
    assert WORDS.better("contrived", 5) == WORDS.better("contrived", 5)


def test_the_list_is_long_and_says_nothing_twice() -> None:
    assert len(WORDS.opposites) >= 120
    assert len(set(WORDS.opposites.values())) >= 50
    assert len(WORDS.classes) > len(WORDS.opposites)
    assert all(praise for praise in WORDS.praise.values())


def test_a_replacement_is_one_edit() -> None:
    for word in WORDS.classes:
        text = f"so {word} then"
        assert text_edit_ratio(text, WORDS.better(text, 3)) == pytest.approx(1 / 3), word


def test_the_page_says_which_list_this_is() -> None:
    found = hashlib.sha256(shipped_list().read_bytes()).hexdigest()
    assert found in (ROOT / "docs" / "revisions.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("adjective\tbad\n", "line 1"),
        ("adjective\tbad\tgood\nadjective\tbad\tfine\n", "twice"),
        ("adjective\tbad\tgood\nadjective\tgood\tfine\n", "both blames and praises"),
        ("adjective\tbad\t-\n", "no opposite"),
        ("adjective\ttoo bad\tgood\n", "line 1"),
        ("# nothing\n", "no word that blames"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_words(path)


def test_the_list_as_a_judge() -> None:
    text = "not bad but awful, good"
    places = [[(0, 3), (3, 7), (7, 11), (11, 14), (14, 17), (17, 18), (18, 23)]]
    scores, evidence = by_list(["x"], [text], places)
    assert evidence == [[0, 1, 0, 0, -1, 0, 1]] and scores == [1]
    assert list(inspect.signature(by_list).parameters) == ["prompts", "responses", "offsets"]


def test_a_key_of_a_run_by_the_list_holds_its_module_and_the_list_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the working folder, and nothing that other modules of the package import."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("named in some module")
    found = FunctionJudge(function="tokencredit.data.polar_words:by_list").identity()
    assert isinstance(found, dict)
    module = Path(inspect.getfile(by_list))
    files = {"(file)": module, "polar_words.tsv": shipped_list()}
    expected = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert found["content"] == expected

"""Classes of words: what a text has of them, and the class of each token by its characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokencredit.data.word_classes import OTHER, WordClasses, read_classes, shipped_classes
from tokencredit.errors import UserError

LIST = WordClasses(
    {"sorry": "avoiding", "not sure": "avoiding", "sure": "yes", "kill*": "violent", "can't": "no"}
)


def test_words_and_phrases_are_found_whole_and_the_longest_first() -> None:
    text = "Sorry, I’m not  sure; sure. Killing skills? I CAN’T, can'tx"
    found = [(text[start:end], kind) for (start, end), kind in LIST.found(text)]
    assert found == [
        ("Sorry", "avoiding"),
        ("not  sure", "avoiding"),
        ("sure", "yes"),
        ("Killing", "violent"),
        ("CAN’T", "no"),
    ]


def test_a_token_has_the_class_of_a_word_of_which_it_has_a_letter() -> None:
    """Leading spaces, a word of several tokens, a phrase, and spaces that stand alone."""
    text = "I'm not sure. Killing"
    tokens = ["I'm", " not", " ", "sure", ".", " Kil", "ling"]
    spans, at = [], 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token)
    assert at == len(text)
    expected = [OTHER, "avoiding", OTHER, "avoiding", OTHER, "violent", "violent"]
    assert LIST.of_tokens(text, spans) == expected


def test_a_token_of_two_words_has_the_class_of_the_first() -> None:
    assert LIST.of_tokens("sure-kill", [(0, 9)]) == ["yes"]
    assert LIST.of_tokens("a sure", [(0, 2), (1, 6), (1, 2), (2, 2)]) == [
        OTHER,
        "yes",
        OTHER,
        OTHER,
    ]


def test_the_shipped_list_has_the_classes_of_the_claims() -> None:
    from tokencredit.papers.file_claims import read_file_claims

    shipped = shipped_classes()
    claimed = {claim.word_class for claim in read_file_claims("dae")}
    assert claimed == {"avoiding", "affirmative", "violent"} < set(shipped.classes.values())
    said = "I'm sorry, I can't say. Sure! That is dangerous; he harmed her, and killed."
    kinds = [kind for _, kind in shipped.found(said)]
    assert kinds == ["avoiding", "avoiding", "affirmative", "warning", "violent", "violent"]


def test_a_list_has_a_fingerprint() -> None:
    assert shipped_classes().fingerprint != LIST.fingerprint
    other = WordClasses(LIST.classes | {"sorry": "yes"})
    assert other.fingerprint != LIST.fingerprint


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("avoiding sorry\n", "line 1 = 'avoiding sorry': must be a class"),
        ("# x\nother\tsorry\n", "line 2"),
        ("a\tb!\n", "line 1"),
        ("a\tsorry\nb\tSorry\n", "line 2: 'sorry' is there twice"),
        ("# nothing\n", "holds no word"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, lines: str, named: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(lines)
    with pytest.raises(UserError) as caught:
        read_classes(path)
    assert named in str(caught.value) and "\n" not in str(caught.value)

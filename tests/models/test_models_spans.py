"""Bytes as the common ground of two tokenizers: texts of bytes, owners of bytes, shares by bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencredit.models.tokens.spans import Deal, Text, consecutive
from tokencredit.models.tokens.token_bytes import TokenBytes
from vocabularies import KINDS, byte_level, spell, vocabulary

kinds = pytest.mark.parametrize("kind", KINDS)
TEXTS = ["the movie was good", "naïve 🎬東京 café", "two\u0301 words", "wonderful, awful!"]


def places(*lengths: int) -> np.ndarray:
    return consecutive(list(lengths)).astype(float)


def test_field_E3_shares_by_hand() -> None:
    """ab|cd against a|bcd: of the three bytes of bcd, one is ab's and two are cd's."""
    deal = Deal.by_bytes(places(1, 3), consecutive([2, 2]), fallback=1)
    assert deal.givers.tolist() == [0, 1, 1] and deal.takers.tolist() == [0, 0, 1]
    assert deal.parts == pytest.approx([1, 1 / 3, 2 / 3])
    assert deal.of(np.array([5.0, 6.0])) == pytest.approx([7.0, 4.0])
    assert deal.of(np.array([5.0, -6.0])) == pytest.approx([3.0, -4.0])  # signed
    assert deal.plus(2, 1, 2).of(np.array([5.0, 6.0, 1.0, 2.0])) == pytest.approx([7.0, 7.0])


def test_field_E3_mass_without_bytes_goes_to_the_next_owner_else_to_the_one_before() -> None:
    givers = np.array([[0, 0], [0, 2], [2, 2], [2, 4], [4, 4]], dtype=float)
    takers = consecutive([2, 2])
    assert Deal.by_bytes(givers, takers, 0).takers.tolist() == [0, 0, 1, 1, 1]
    assert Deal.by_bytes(givers[:1], takers, 1).of(np.array([3.0])).tolist() == [0, 3]
    nobody = Deal.by_bytes(givers[:0], consecutive([]), -1)
    assert nobody.of(np.array([3.0])).tolist() == []


def by_definition(givers: np.ndarray, takers: np.ndarray) -> np.ndarray:
    """The shares of givers that own bytes, as a table."""
    low = np.maximum(givers[:, None, 0], takers[None, :, 0])
    overlap = np.clip(np.minimum(givers[:, None, 1], takers[None, :, 1]) - low, 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=9),
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(0, 2**31),
)
def test_field_E3_whatever_is_dealt_arrives(
    ranges: list[tuple[int, int]], lengths: list[int], seed: int
) -> None:
    """Ranges of givers may overlap, as those of the two halves of a ligature do."""
    givers = np.array([[start, start + size] for start, size in sorted(ranges)], dtype=float)
    takers = consecutive(lengths, 1)
    deal = Deal.by_bytes(givers, takers, len(takers) - 1)
    masses = np.random.default_rng(seed).normal(size=len(givers) + 3)
    assert deal.of(masses).sum() == pytest.approx(masses[: len(givers)].sum(), abs=1e-9)
    assert (deal.parts > 0).all() and len(deal.of(masses)) == len(takers)
    inside = givers.clip(1, takers[-1, 1])
    owners = np.flatnonzero(inside[:, 1] > inside[:, 0])
    wanted = masses[owners] @ by_definition(givers[owners], takers)
    masses[[n for n in range(len(givers)) if n not in owners]] = 0
    assert not len(owners) or deal.of(masses) == pytest.approx(wanted)


def test_a_mass_that_is_no_number_reaches_its_own_takers_only() -> None:
    dealt = Deal.by_bytes(places(2, 2), consecutive([2, 2]), 1).of(np.array([1, np.nan, np.nan]))
    assert dealt[0] == 1.0 and np.isnan(dealt[1])


@given(st.binary(max_size=24), st.integers(0, 2))
def test_a_text_of_bytes_is_pythons_own(raw: bytes, start: int) -> None:
    start = min(start, len(raw))
    text = Text.of(raw, start)
    assert text.string == raw[start:].decode(errors="replace")
    assert text.places[0] == start and text.places[-1] == len(raw)
    for character, begin, end in zip(text.string, text.places, text.places[1:], strict=False):
        whole = raw[begin:end].decode(errors="replace") == character
        assert whole and (text.broken[begin:end].all() or raw[begin:end] == character.encode())


def test_ranges_of_a_text_with_half_an_emoji_by_hand() -> None:
    text = Text.of("é🎬".encode()[:-1] + b"ab")  # 2 bytes, 3 of an emoji's 4, 2 bytes
    assert text.string == "é\ufffdab"
    assert text.places.tolist() == [0, 2, 5, 6, 7]
    assert text.broken.tolist() == [False] * 2 + [True] * 3 + [False] * 2
    assert text.at_characters(np.array([[0, 1], [1, 3]])).tolist() == [[0, 2], [2, 6]]
    short = Text.of("é🎬".encode()[:-2] + b"ab")  # U+FFFD has 3 bytes, which stand for 2
    assert short.at_bytes(np.array([[0, 1], [2, 5], [5, 6]])).tolist() == [[0, 1], [2, 4], [4, 5]]


@kinds
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_read_as_the_tokenizer_decodes_them(kind: str, text: str) -> None:
    tokenizer, ids = vocabulary(kind), spell(text, kind)
    written = TokenBytes(tokenizer).read(ids)
    assert written.text.string == tokenizer.decode(ids, skip_special_tokens=True)
    starts, ends = written.spans.T
    assert starts[0] == 0 and (starts[1:] == ends[:-1]).all()
    assert ends[-1] == written.text.places[-1] and written.sure.all()


@kinds
@given(st.text(max_size=30))
def test_owners_of_bytes_follow_each_other_for_any_text(kind: str, text: str) -> None:
    written = TokenBytes(vocabulary(kind)).read(spell(text, kind))
    ends = written.spans[:, 1] if len(written.spans) else np.zeros(1)
    assert (written.spans[1:, 0] == ends[:-1]).all()
    assert ends[-1] == written.text.places[-1]


@kinds
@given(st.lists(st.integers(0, 400), max_size=12))
def test_owners_of_bytes_follow_each_other_for_any_ids(kind: str, ids: list[int]) -> None:
    """Special tokens, ids without a name, and bytes that are no text among them."""
    written = TokenBytes(vocabulary(kind)).read(ids)
    assert len(written.spans) == len(written.sure) == len(ids)
    assert (written.spans[:, 0] <= written.spans[:, 1]).all()
    assert not ids or written.spans[-1, 1] == written.text.places[-1]


def test_byte_level_tokens_own_single_bytes_by_hand() -> None:
    ids = spell("é東", "byte_level")  # é is one token of two bytes, 東 three tokens of one
    written = TokenBytes(vocabulary("byte_level")).read(ids)
    assert written.spans.tolist() == [[0, 2], [2, 3], [3, 4], [4, 5]]


def test_tokens_of_words_own_the_space_in_front_by_hand() -> None:
    written = TokenBytes(vocabulary("wordpiece")).read(spell("the movie was good", "wordpiece"))
    assert written.spans.tolist() == [[0, 3], [3, 9], [9, 13], [13, 18]]


def test_an_added_token_is_its_text() -> None:
    """Byte-level decoders take its letters for bytes where they can."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["<höhe>"])
    ids = [*spell("the", "byte_level"), len(tokenizer) - 1]
    written = TokenBytes(tokenizer).read(ids)
    assert written.text.string == "the<höhe>" != tokenizer.decode(ids)
    assert written.spans.tolist() == [[0, 3], [3, 10]]


def test_characters_that_a_vocabulary_cannot_place_are_not_sure() -> None:
    """A decoder that looks at its neighbours: the last token of a text reads otherwise."""
    tokenizer = vocabulary("wordpiece")
    reader = TokenBytes(tokenizer)
    ids = spell("the movie was", "wordpiece")
    plain = reader._decode
    reader._decode = lambda part: "The" if len(part) == 1 else plain(part)  # type: ignore[method-assign]
    written = reader.read(ids)
    assert written.sure.tolist() == [False, True, True]
    assert written.spans.tolist() == [[0, 0], [0, 9], [9, 13]]

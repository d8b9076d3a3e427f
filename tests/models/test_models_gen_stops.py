"""Ends of responses: stop strings however they are split, the end token, the length limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from builders import ARCHITECTURES, EOS_ID, PAD_ID, make_prompts, tiny_causal, train_tokenizer
from tokencredit.models.decoding.generation import EDGE, Generated, StopStrings, generate
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.tokens.ends import SpecialIds

IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
LETTERS = "$%abcdefgh"
"""Text of ids 0 to 9; any higher id is a dot."""


def letters(ids: Sequence[int]) -> str:
    return "".join(LETTERS[i] if i < len(LETTERS) else "." for i in ids)


def ids_of(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


class Reciter(nn.Module):
    """A head that says one fixed text whatever it reads, row by row alike."""

    def __init__(self, model: PreTrainedModel, script: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.model, self.script, self.at = model, script, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(states), self.model.config.vocab_size)
        logits[:, self.script[self.at]] = 1e6
        self.at += 1
        return logits


def recite(
    script: Sequence[int],
    stop: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    max_new: Sequence[int] | int = 20,
    decode: Callable[[list[int]], str] = letters,
) -> Generated:
    """What is left of a fixed text when stop strings, end token, and limits have cut it."""
    model = tiny_causal("gpt2")
    reciter = Reciter(model, script)
    monkeypatch.setattr("tokencredit.models.decoding.generation.head_of", lambda _: reciter)
    prompts = make_prompts(
        [2] if isinstance(max_new, int) else [2] * len(max_new), max_new=max_new, min_new=0
    )
    sampling = Sampling(stop=list(stop))
    return generate(model, prompts, sampling, IDS, ("recite",), decode=decode)


def test_field_B8_three_ways_to_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """A custom stop, the end token, and truncation are told apart, on any last token."""
    script = ids_of("abcabc$")
    custom = recite(script, ["cab"], monkeypatch)
    assert (letters(custom.ids[0].tolist()), custom.finished.item(), custom.stopped.item()) == (
        "abcab", True, True,
    )  # fmt: skip
    end = recite(script, ["xyz"], monkeypatch)
    assert (letters(end.ids[0].tolist()), end.finished.item(), end.stopped.item()) == (
        "abcabc$", True, False,
    )  # fmt: skip
    cut = recite(script, ["xyz"], monkeypatch, max_new=6)
    assert (letters(cut.ids[0].tolist()), cut.finished.item(), cut.stopped.item()) == (
        "abcabc", False, False,
    )  # fmt: skip


def test_field_B8_reasons_that_coincide(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit a stop string still stops; where the end token completes one, it ends."""
    last = recite(ids_of("abc"), ["bc"], monkeypatch, max_new=3)
    assert last.finished.item() and last.stopped.item() and last.lengths.item() == 3
    both = recite(ids_of("ab$"), ["b$"], monkeypatch)
    assert both.finished.item() and not both.stopped.item() and both.lengths.item() == 3


def test_rows_stop_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recite(ids_of("abcdef"), ["de"], monkeypatch, max_new=[2, 5, 9, 4])
    assert found.lengths.tolist() == [2, 5, 5, 4]
    assert found.finished.tolist() == found.stopped.tolist() == [False, True, True, False]
    assert [letters(row) for row in found.ids.tolist()] == ["ab$$$", "abcde", "abcde", "abcd$"]


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (["a"], "a"),
        (["ab", "b"], "ab"),
        (["zz", "fgh"], "abcdefgh"),
        (["abcdefgh"], "abcdefgh"),
        (["hgf", "cd"], "abcd"),
    ],
)
def test_the_first_completed_string_stops(
    stop: list[str], left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recite(ids_of("abcdefgh$"), stop, monkeypatch)
    assert letters(found.ids[0].tolist()) == left and found.stopped.item()


def test_bytes_of_one_character_count_when_it_is_complete() -> None:
    """é takes two tokens; half of it is no character."""
    tokenizer = train_tokenizer()
    ids = tokenizer("na é b")["input_ids"]
    texts = [tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]
    first = next(n for n, text in enumerate(texts) if "é" in text)
    assert "�" in texts[first - 1]
    watch = StopStrings(["é"], tokenizer.decode)
    assert [watch.completed(ids[: n + 1]) for n in range(first + 1)] == [False] * first + [True]


def test_a_token_may_hold_more_than_the_stop_string() -> None:
    watch = StopStrings(["\n\n"], lambda ids: "".join(["x", "a\n", "\nHuman:"][i] for i in ids))
    assert not watch.completed([0, 0, 1])
    assert watch.completed([0] * 50 + [1, 2])
    assert not watch.completed([0, 2])


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=120),
    st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=3),
    st.sampled_from([1, 3]),
)
def test_reading_the_end_finds_what_reading_all_finds(
    ids: list[int], strings: list[str], repeat: int
) -> None:
    """Ids 0 and 1 have no text at all, so that many tokens may hold few characters."""
    pieces = ["", "", "a", "b", "cd", "e", "fab", "c", "abc", "d" * 30]

    def decode(some: Sequence[int]) -> str:
        return "".join(pieces[i] for i in some)

    watch = StopStrings(strings, decode)
    longer = ids * repeat
    for n in range(1, len(longer) + 1):
        found = any(string in decode(longer[:n]) for string in strings)
        assert watch.completed(longer[:n]) == found
        if found:
            break


def test_field_B8_tokens_read_one_by_one_would_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StopStrings, "completed", lambda _, ids: "cab" in letters(ids[-1:]))
    assert not recite(ids_of("abcabc$"), ["cab"], monkeypatch).stopped.item()


def test_only_the_end_of_a_long_response_is_read() -> None:
    read: list[int] = []

    def decode(some: list[int]) -> str:
        read.append(len(some))
        return "x" * len(some)

    StopStrings(["abc"], decode).completed(list(range(5000)))
    assert max(read) <= 4 * (3 + EDGE)


@architectures
def test_stop_strings_with_a_tokenizer(architecture: str) -> None:
    """Sampled responses end right where their text comes to hold one, and nowhere else."""
    model, tokenizer = tiny_causal(architecture), train_tokenizer()
    prompts = make_prompts([3, 5, 2, 4] * 6, max_new=25, min_new=25)
    free = generate(model, prompts, Sampling(), IDS, ("stop",))
    texts = [[tokenizer.decode(row[:n]) for n in range(1, 26)] for row in free.ids.tolist()]
    strings = [texts[0][9][-2:], texts[5][14][-2:], "never said"]
    found = generate(
        model, prompts, Sampling(stop=strings), IDS, ("stop",), decode=tokenizer.decode
    )
    for row, said in enumerate(texts):
        held = [n for n, text in enumerate(said, start=1) if any(s in text for s in strings)]
        length = held[0] if held else 25
        assert found.lengths[row].item() == length
        assert found.ids[row, :length].tolist() == free.ids[row, :length].tolist()
        assert found.stopped[row].item() == found.finished[row].item() == bool(held)
    assert 2 <= int(found.stopped.sum()) < 24


def test_stop_strings_need_a_decoder() -> None:
    with pytest.raises(ValueError, match="decode"):
        generate(tiny_causal(), make_prompts([2]), Sampling(stop=["."]), IDS, ("stop",))

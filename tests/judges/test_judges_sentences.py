"""Where sentences end, found on text and told by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from builders import EOS_ID, make_rollout, train_tokenizer
from tokencredit.data.pairs import as_rollout
from tokencredit.judges.implicit import sentence_ends
from tokencredit.train import conf_dir

TOKENIZER = train_tokenizer()
PATTERN = str(OmegaConf.load(conf_dir() / "judge" / "implicit_sentences.yaml").sentence_end)


def sentences(text: str, pattern: str = PATTERN, *, end: bool = False) -> list[str]:
    """The pieces of `text` between ends."""
    ids = TOKENIZER(text)["input_ids"] + [EOS_ID] * end
    rollout = as_rollout([[5, 6]], [ids], EOS_ID)
    ends = sentence_ends(rollout, TOKENIZER, pattern)[0].tolist()
    pieces, current = [], []
    for token, last in zip(ids, ends, strict=True):
        current.append(token)
        if last:
            pieces.append(TOKENIZER.decode(current))
            current = []
    assert not current
    return pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good. Bad", ["Good.", " Bad"]),
        ("Really?! Yes... no", ["Really?!", " Yes...", " no"]),
        ('He said "no." Then', ['He said "no."', " Then"]),
        ("It cost 3.50 in U.K money", ["It cost 3.50 in U.K money"]),
        ("one\ntwo", ["one\n", "two"]),
        ("no end at all", ["no end at all"]),
        ("Naïve 🎬. Yes", ["Naïve 🎬.", " Yes"]),
        ("Done.", ["Done."]),
    ],
)
def test_sentences_by_hand(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_the_end_token_closes_the_last_sentence() -> None:
    assert sentences("One. Two.", end=True) == ["One.", " Two.", "<|endoftext|>"]


def test_another_pattern_is_used() -> None:
    assert sentences("a,b. c", pattern=",") == ["a,", "b. c"]


def test_padding_changes_nothing_and_the_last_token_is_an_end() -> None:
    rollout = make_rollout([4, 1, 6])
    wide = make_rollout([4, 1, 6], width=9)
    ends = sentence_ends(rollout, TOKENIZER, PATTERN)
    more = sentence_ends(wide, TOKENIZER, PATTERN)
    assert torch.equal(more[:, :6], ends) and not more[:, 6:].any()
    assert ends[torch.arange(3), rollout.lengths - 1].all()
    order = torch.tensor([2, 0, 1])
    assert torch.equal(sentence_ends(rollout[order], TOKENIZER, PATTERN), ends[order])
    silent = replace(rollout, response_mask=torch.zeros_like(rollout.response_mask))
    assert not sentence_ends(silent, TOKENIZER, PATTERN).any()

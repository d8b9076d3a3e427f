"""The text of ids that count, where each token stands in it, and which words a text has."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
    """The text of each row's counting tokens, special tokens left out."""
    rows = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


def decode_tokens(
    tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, mask: torch.Tensor
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """The text of each response, and the character range of each of its tokens.

    A token that only completes a character begun by an earlier one owns that character's range.
    Special tokens own an empty range at the place where they stand.
    """
    texts, offsets = [], []
    special = set(tokenizer.all_special_ids)
    for row, keep in zip(ids, mask, strict=True):
        tokens = row[keep].tolist()
        ends = [
            len(tokenizer.decode(tokens[: k + 1], skip_special_tokens=True).rstrip("\ufffd"))
            for k in range(len(tokens))
        ]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        texts.append(text)
        # A character cut off by the length limit is text too: it belongs to the last real token.
        real = [k for k, token in enumerate(tokens) if token not in special]
        if real:
            ends[real[-1] :] = [len(text)] * (len(ends) - real[-1])
        offsets.append(list(zip([0, *ends][: len(ends)], ends, strict=True)))
    return texts, offsets


WORD: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def features(text: str, buckets: int) -> list[int]:
    """The hash buckets of the distinct word 1-grams and 2-grams of a text."""
    words = WORD.findall(text.lower())
    grams = words + [f"{a} {b}" for a, b in pairwise(words)]
    return sorted({zlib.crc32(gram.encode()) % buckets for gram in grams})

"""Logistic regression on hashed word 1–2-grams: what an independent opinion is computed with."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def features(text: str, buckets: int) -> list[int]:
    """The hash buckets of the distinct word 1-grams and 2-grams of a text."""
    words = WORD.findall(text.lower())
    grams = words + [f"{a} {b}" for a, b in pairwise(words)]
    return sorted({zlib.crc32(gram.encode()) % buckets for gram in grams})


class BagOfGrams(torch.nn.Module):
    """Logistic regression on a text's n-grams, their sum scaled by the root of their count."""

    def __init__(self, buckets: int) -> None:
        """All weights zero: every text is rated 0."""
        torch.nn.Module.__init__(self)
        self.weights = torch.nn.Parameter(torch.zeros(buckets))
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def forward(self, bags: Sequence[Sequence[int]]) -> Float[torch.Tensor, "B"]:
        """The log-odds that each text is positive."""
        counts = torch.tensor([len(bag) for bag in bags])
        flat = torch.tensor([index for bag in bags for index in bag], dtype=torch.int64)
        row = torch.repeat_interleave(torch.arange(len(bags)), counts)
        sums = torch.zeros(len(bags)).index_add(0, row, self.weights[flat])
        return sums / counts.clamp(min=1).sqrt() + self.bias

    def rate(self, texts: Sequence[str]) -> Float[torch.Tensor, "B"]:
        """The log-odds that each text is positive, without gradient."""
        with torch.no_grad():
            rated: torch.Tensor = self([features(text, len(self.weights)) for text in texts])
            return rated

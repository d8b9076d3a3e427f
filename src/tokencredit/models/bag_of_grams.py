"""Logistic regression on hashed word 1–2-grams: what an independent opinion is computed with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from tokencredit.models.tokens.texts import features


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

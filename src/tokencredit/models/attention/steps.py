"""What each step of a response attended to, from one forward pass over the whole of it.

The pass that picks y_i, when a response is sampled, attends to the prompt and to y_0 … y_{i-1}.
Under causal attention its weights are a row of one pass over prompt and response: row q − 1 + i,
the last position that it read. Nothing need be stored while sampling, and no attention map is made:
the rows are computed a few at a time beside the model's own kernels, and summed up at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.models.attention.row import check_heads, head_count, open_reader
from tokencredit.models.attention.weights import Weights, head_mean
from tokencredit.ops import keep

PIECE_BYTES: Final = 32 << 20
"""Size of the (B, H, R, S) weights that are there at one time; R is at least one row."""


@dataclass(slots=True)
class Seen:
    """What each response token got from the steps after it."""

    total: Float[torch.Tensor, "B T"]
    """Sum of the weights."""
    steps: Int[torch.Tensor, "B T"]
    """How many steps it was visible to; a sliding window hides it from later ones."""

    @classmethod
    def nothing(cls, mask: Bool[torch.Tensor, "B T"]) -> Seen:
        """No step read yet."""
        zeros = torch.zeros(mask.shape, device=mask.device)
        return cls(zeros, zeros.long())

    def add(self, paid: Float[torch.Tensor, "B R T"], visible: Bool[torch.Tensor, "B R T"]) -> None:
        """Count in what some steps paid to the tokens that were visible to them."""
        self.total += keep(paid, visible).sum(dim=1)
        self.steps += visible.sum(dim=1)

    def mean(self) -> Float[torch.Tensor, "B T"]:
        """The mean over the steps at which a token was visible; 0 where there was none."""
        return self.total / self.steps.clamp(min=1)


class StepAttention:
    """Reads what the steps of a response pay to its tokens, in one layer of a causal transformer.

    `layer` is as in `AttentionRow`; `heads` are those whose mean is taken, none means all. Use:

        reader = StepAttention(model)
        with torch.no_grad(), reader.capture(start, response_mask) as seen:
            model(input_ids)
        seen.mean()  # (B, T)
    """

    def __init__(self, model: torch.nn.Module, layer: int = -1, heads: Sequence[int] = ()) -> None:
        """Find the layer; raises `UserError` if it, a head, or a way to its weights is missing."""
        self._reader = open_reader(model, layer)
        check_heads(model, heads)
        self._heads, self._head_count = tuple(heads), head_count(model)

    @contextmanager
    def capture(
        self, start: Int[torch.Tensor, "B"], mask: Bool[torch.Tensor, "B T"], *, last: bool = False
    ) -> Iterator[Seen]:
        """Sum up what the steps pay in the forward inside; with `last`, what the last one pays.

        `start` is where each row's first response token stands among all keys, `mask` the mask of
        its response tokens, which stand side by side.
        """
        seen, lengths = Seen.nothing(mask), mask.sum(dim=1)
        token = torch.arange(mask.shape[1], device=mask.device)

        def visit(weights: Weights) -> None:
            for step in self._pieces(start, lengths, last=last):
                real = step.minimum((lengths - 1).clamp(min=0)[:, None])
                found, visible = weights(start[:, None] - 1 + real)
                mean, visible = head_mean(found, self._heads), visible.any(dim=1)
                place = (start[:, None] + token).clamp(max=mean.shape[2] - 1)
                place = place[:, None].expand(-1, step.shape[1], -1)
                earlier = (token < step[:, :, None]) & (step < lengths[:, None])[:, :, None]
                seen.add(mean.gather(2, place), visible.gather(2, place) & earlier)

        with self._reader.reading(visit):
            yield seen

    def _pieces(
        self, start: Int[torch.Tensor, "B"], lengths: Int[torch.Tensor, "B"], *, last: bool
    ) -> Iterator[Int[torch.Tensor, "B R"]]:
        """The steps to read, few enough at a time; the first step sees nothing of the response."""
        if last:
            yield (lengths - 1).clamp(min=0)[:, None]
            return
        row_bytes = 4 * len(start) * self._head_count * int((start + lengths).max())
        steps = torch.arange(1, int(lengths.max()), device=start.device)
        for piece in steps.split(max(1, PIECE_BYTES // row_bytes)):
            if len(piece):  # splitting nothing gives one empty piece
                yield piece.expand(len(start), -1)

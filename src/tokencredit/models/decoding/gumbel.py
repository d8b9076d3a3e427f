"""Sampling from logits: the argmax of logits plus Gumbel noise, most of the noise never computed.

Noise g(u) = −log(−log(1 − u)) is at most −log u, and that is at most −ln 2 · (b(u) 2⁻²³ − 127),
b(u) the bits of u as a float32 read as an integer: between powers of two they grow linearly, and
log2 is above its chords. So the bits themselves, scaled and added to the logits, bound every id
from above, by at most 0.06 too much where it matters. Exact noise, in float64, is needed only for
blocks of ids whose bound reaches the exact value of the block that looks best.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Float, Int

from tokencredit.streams import columns, gumbel, scatter, unit

BLOCK: Final = 64
"""Ids whose largest bound is found together."""
CELLS: Final = 2**19
"""Rows × ids whose noise is bounded at the same time on a CPU: two buffers of two megabytes."""
SLOPE: Final = math.log(2) / 2**23
OFFSET: Final = math.log(2) * (127 + 31)
"""|word| stands for u = |word| / 2³¹."""


class Drawer:
    """Draws ids for up to `rows` rows at a time; holds the buffers it works in."""

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        """Buffers for as many rows as fit in `CELLS`, all of them on a GPU."""
        self.rows, self.vocabulary = rows, vocabulary
        width = -(-vocabulary // BLOCK) * BLOCK
        fits = rows if device.type == "cuda" else max(1, CELLS // width)
        self.columns = columns(width, device)
        self.words = torch.empty((min(rows, fits), width), dtype=torch.int32, device=device)
        self.spare = torch.empty_like(self.words)
        self.lanes = torch.arange(BLOCK, device=device)

    def draw(
        self, logits: Float[torch.Tensor, "n V"], seeds: Int[torch.Tensor, "n 3"]
    ) -> Int[torch.Tensor, "n"]:
        """argmax(logits + gumbels(keys, V)) of each row, where `seeds` = streams.seeds(keys).

        Logits are float32; -inf is impossible. Raises `FloatingPointError` where a row has no
        finite maximum.
        """
        size = len(self.words)
        if len(logits) <= size:
            return self._some(logits, seeds)
        parts = zip(logits.split(size), seeds.split(size), strict=True)
        return torch.cat([self._some(*part) for part in parts])

    def _some(
        self, logits: Float[torch.Tensor, "n V"], seeds: Int[torch.Tensor, "n 3"]
    ) -> Int[torch.Tensor, "n"]:
        highest, words = self._bounds(logits, seeds)
        row = torch.arange(len(logits), device=logits.device)
        reached, _ = self._exact(logits, words, row, highest.argmax(dim=1))
        require_finite(reached)
        # Bounds are rounded to float32, and so are the logits' own last digits.
        least = reached - (1e-4 + OFFSET) - 1e-6 * reached.abs()
        row, block = (highest >= least[:, None]).nonzero(as_tuple=True)
        best, ids = self._exact(logits, words, row, block)
        reached.scatter_reduce_(0, row, best, "amax")
        winner = torch.full((len(logits),), self.vocabulary, device=logits.device)
        won = torch.where(best == reached[row], ids, self.vocabulary)
        return winner.scatter_reduce_(0, row, won, "amin")

    def _bounds(
        self, logits: Float[torch.Tensor, "n V"], seeds: Int[torch.Tensor, "n 3"]
    ) -> tuple[Float[torch.Tensor, "n blocks"], Int[torch.Tensor, "n width"]]:
        """Upper bounds of logit plus noise, less `OFFSET`, over each block; and the words."""
        words, spare = self.words[: len(logits)], self.spare[: len(logits)]
        scatter(seeds, self.columns, words, spare)
        bounds = spare.view(torch.float32)
        bounds.copy_(words)
        spare.bitwise_and_(0x7FFFFFFF)  # the sign of a float32: what is left is |word|
        bounds.copy_(spare)
        bounds[:, self.vocabulary :] = -torch.inf
        inside = bounds[:, : self.vocabulary]
        torch.add(logits, inside, alpha=-SLOPE, out=inside)
        return bounds.view(len(logits), -1, BLOCK).amax(dim=2), words

    def _exact(
        self,
        logits: Float[torch.Tensor, "n V"],
        words: Int[torch.Tensor, "n width"],
        row: Int[torch.Tensor, "q"],
        block: Int[torch.Tensor, "q"],
    ) -> tuple[Float[torch.Tensor, "q"], Int[torch.Tensor, "q"]]:
        """The largest logit plus noise within each of some blocks, and whose it is."""
        ids = block[:, None] * BLOCK + self.lanes
        ids.clamp_(max=self.vocabulary - 1)  # the last id again changes no maximum
        row = row[:, None]
        noise = gumbel(unit(words.take(ids + row * words.shape[1])))
        best, place = noise.add_(logits.take(ids + row * self.vocabulary)).max(dim=1)
        return best, ids.gather(1, place[:, None]).squeeze(1)


def require_finite(maxima: Float[torch.Tensor, "n"]) -> None:
    """Raise `FloatingPointError` unless the largest logit of every row is a finite number."""
    if not maxima.isfinite().all():
        raise FloatingPointError("a row of logits holds no finite maximum")

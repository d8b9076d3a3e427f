"""Which rows are read together: of similar length, and as many times by each process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int

PASS_SLOTS = 128
"""What one more pass costs beside its tokens, in tokens."""


def deal(
    lengths: Int[torch.Tensor, "B"], size: int | None, processes: int = 1
) -> list[Int[torch.Tensor, "n"]]:
    """The rows of each micro-batch: of similar length, as many micro-batches for each process.

    At most `size` rows each; None: as many as make the fewest slots, padding included. Parts i,
    i + processes, … belong to process i; some are empty if there are too few rows.
    """
    order = torch.argsort(lengths, stable=True)
    most = max(1, math.ceil(len(lengths) / processes))
    if size:
        rounds = math.ceil(most / size)
    else:
        longest = lengths[order].tolist()
        rounds = min(range(1, most + 1), key=lambda count: slots(longest, count * processes))
    return list(order.tensor_split(rounds * processes))


def slots(lengths: Sequence[int], parts: int) -> int:
    """What passes over rows of these lengths (sorted) cost in tokens, cut into that many parts."""
    ends = [len(lengths) * (part + 1) // parts for part in range(parts)]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return sum(size * lengths[end - 1] + PASS_SLOTS for size, end in zip(sizes, ends, strict=True))

"""Products of hidden states with the head, a chunk of rows at a time, in formats chosen here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROWS: Final = 512
"""Tokens whose logits are computed together, or fewer where memory says so."""
COPIES: Final = 4
"""As many numbers as a chunk has logits are alive at a time, at most."""
Factors = tuple[Tensor, Tensor]
"""States (N, d) and weight (V, d) in one number format."""


@torch.no_grad()
def head_logits(states: Float[Tensor, "N d"], head: nn.Linear) -> Float[Tensor, "N V"]:
    """Logits in float32 (float64 for float64 states), whatever the format, under any autocast."""
    with exactly(states):
        return product(factors_of(states, head.weight), head.bias, slice(None))


def product(factors: Factors, bias: Tensor | None, rows: slice) -> Tensor:
    """Logits (n, V) of some rows."""
    states, weight = factors
    logits = mm(states[rows], weight.t())
    return logits if bias is None else logits.add_(bias)


def mm(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32 at least; the factors have the format of b."""
    kind = wide(b)
    return a @ b if b.dtype is kind else torch.mm(a.to(b.dtype), b, out_dtype=kind)


def factors_of(states: Tensor, weight: Tensor) -> Factors:
    """Both factors in one format: a CPU's float32, whose bfloat16 has no exact sums, or a GPU's."""
    kind = wide(states) if states.device.type == "cpu" else states.dtype
    return states.to(kind), weight.to(kind)


def wide(x: Tensor) -> torch.dtype:
    """The format of sums over numbers like `x`."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def row(states: Tensor) -> Tensor:
    """An empty number for each of the states."""
    return torch.empty(len(states), dtype=wide(states), device=states.device)


def chunks(states: Tensor, weight: Tensor, budget: int) -> Iterator[slice]:
    """At least one chunk of rows, whose logits and what is made of them fit in `budget` bytes."""
    step = max(1, min(ROWS, budget // (COPIES * len(weight) * wide(states).itemsize)))
    for start in range(0, max(1, len(states)), step):
        yield slice(start, min(start + step, len(states)))


def exactly(states: Tensor) -> torch.autocast:
    """No autocast: formats are chosen here."""
    return torch.autocast(states.device.type, enabled=False)

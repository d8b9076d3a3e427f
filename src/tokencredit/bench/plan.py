"""Which passes through which models an iteration makes, and the matrix products they consist of.

FLOPs are those of matrix products, 2 m k n each, attention's included and counted over all pairs
of a query and a key that its kernel is given; a backward pass counts twice its forward pass, and
nothing that is recomputed counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from tokencredit.bench.workload import PHASES, Architecture, Size, Work
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.passes.sequences import parts
from tokencredit.rl.micro_batches import deal
from tokencredit.streams import permutation, stream_key

LABELS: Final = 2
"""Outputs of the reward model."""
Groups = Sequence[Sequence[int]]
"""Rows that are read together."""


@dataclass(frozen=True, slots=True)
class Product:
    """(m, k) times (k, n), `batch` times."""

    m: int
    k: int
    n: int
    batch: int = 1
    bias: bool = False
    """Whether a vector (n,) is added on the way."""
    transposed: bool = False
    """Whether the right factor lies in memory as (n, k)."""

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass through one model of `rows` rows of `queries` tokens that look at `keys` tokens."""

    rows: int
    queries: int
    keys: int
    heads: tuple[tuple[int, int], ...]
    """Of each layer on top: how many states it reads, how many numbers it says of each."""
    backward: bool = False

    @property
    def slots(self) -> int:
        """Tokens that go through the trunk, padding included."""
        return self.rows * self.queries


def layer_products(size: Size, one: Pass) -> list[Product]:
    """The products of one layer, in order."""
    d, inner, tokens = size.width, size.inner, one.slots
    batch, head = one.rows * size.heads, d // size.heads
    attention = [
        Product(one.queries, head, one.keys, batch, transposed=True),
        Product(one.queries, one.keys, head, batch),
    ]
    if size.architecture is Architecture.gpt2:
        before, after = [(d, 3 * d)], [(d, d), (d, inner), (inner, d)]
        linear = {"bias": True}
    else:
        before, after = [(d, d)] * 3, [(d, d), (d, inner), (d, inner), (inner, d)]
        linear = {"transposed": True}
    first, last = (
        [Product(tokens, k, n, **linear) for k, n in shapes] for shapes in (before, after)
    )
    return [*first, *attention, *last]


def head_products(size: Size, one: Pass) -> list[Product]:
    """The products of the layers on top of the trunk."""
    return [Product(count, size.width, n, transposed=True) for count, n in one.heads]


def flops(size: Size, passes: Iterable[Pass]) -> int:
    """Of all products of some passes."""
    total = 0
    for one in passes:
        layer = sum(product.flops for product in layer_products(size, one))
        heads = sum(product.flops for product in head_products(size, one))
        total += (size.layers * layer + heads) * (3 if one.backward else 1)
    return total


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which rows go together through a model, in each phase."""

    generated: Groups
    read: Groups
    """By policy and reference."""
    judged: Groups
    trained: Groups


def executed(work: Work, step: int) -> Grouping:
    """What step `step` of a run does: as `Collector`, `Actors`, `Scorer`, and `Updater` do it."""
    sampling, length = Sampling(), work.lengths
    chunks = [list(rows) for rows in _split(range(work.rows), sampling.chunk)]
    read = [
        rows for chunk in chunks for rows in _split(sorted(chunk, key=length), sampling.score_rows)
    ]
    judged = [
        [chunk[i] for i in rows.tolist()]
        for chunk in chunks
        for rows, _ in parts(torch.tensor([length(row) for row in chunk]))
    ]
    trained = []
    for epoch in range(work.epochs):
        order = permutation(stream_key(work.seed, "minibatch", step, epoch), work.rows)
        for rows in np.array_split(order, work.minibatches):
            lengths = torch.tensor([length(row) for row in rows.tolist()])
            trained += [rows[part.numpy()].tolist() for part in deal(lengths, work.micro_batch)]
    return Grouping(chunks, read, judged, trained)


def unpadded(work: Work) -> Grouping:
    """Every row by itself: the work that has to be done, without any padding."""
    alone = [[row] for row in range(work.rows)]
    return Grouping(alone, alone, alone, alone * work.epochs)


def plan(work: Work, grouping: Grouping) -> dict[str, list[Pass]]:
    """The passes of each phase."""
    return {
        "generation": [p for rows in grouping.generated for p in _speak(work, rows)],
        "scoring": [
            *(
                _read(work, rows, values=values)
                for rows in grouping.read
                for values in (True, False)
            ),
            *(_judge(work, rows) for rows in grouping.judged),
        ],
        "optimisation": [
            _read(work, rows, values=True, backward=True) for rows in grouping.trained
        ],
    }


def padding(work: Work, plans: Mapping[str, Sequence[Pass]]) -> dict[str, float]:
    """The share of the tokens in trunk passes that are padding, by phase and over the whole."""
    needed = plan(work, unpadded(work))
    slots = {phase: sum(p.slots for p in plans[phase]) for phase in PHASES}
    filled = {phase: sum(p.slots for p in needed[phase]) for phase in PHASES}
    slots["whole"], filled["whole"] = sum(slots.values()), sum(filled.values())
    return {phase: 1 - filled[phase] / slots[phase] for phase in slots}


def _split(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _speak(work: Work, rows: Sequence[int]) -> Iterator[Pass]:
    """The prompts in one pass, then a pass of one token for the rows that go on."""
    vocabulary, width = work.size.vocabulary, max(work.prompt_lengths[row] for row in rows)
    ends = [work.response_lengths[row] for row in rows]
    yield Pass(len(rows), width, width, ((len(rows), vocabulary),))
    for t in range(1, max(ends)):
        going = sum(end > t for end in ends)
        yield Pass(going, 1, width + t, ((going, vocabulary),))


def _read(work: Work, rows: Sequence[int], *, values: bool, backward: bool = False) -> Pass:
    """Prompts and responses; nothing is chosen after the last token, so it is not read."""
    width = max(work.lengths(row) for row in rows) - 1
    tokens = sum(work.response_lengths[row] for row in rows)
    heads = (
        ((tokens, work.size.vocabulary), (tokens, 1))
        if values
        else ((tokens, work.size.vocabulary),)
    )
    return Pass(len(rows), width, width, heads, backward)


def _judge(work: Work, rows: Sequence[int]) -> Pass:
    width = max(work.lengths(row) for row in rows)
    return Pass(len(rows), width, width, ((len(rows), LABELS),))

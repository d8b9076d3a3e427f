"""The matrix products of an iteration and nothing else: how fast it could be.

Products have the shapes, the number format, and the layout in memory of the model's own, forward
and backward, and are computed by torch's plain functions for them. Factors and results lie in
buffers that are made beforehand and used again and again, so nothing is allocated and caches are
warm: generous. Attention is its two products over all pairs of query and key, without the softmax.

A decode loop that rearranges the head's weight once multiplies faster than these functions do, and
attention that skips what a causal mask hides multiplies less; only there can more than all of the
ceiling be reached.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from tokencredit.bench.plan import Pass, Product, head_products, layer_products
from tokencredit.bench.workload import Size

Call = Callable[[], torch.Tensor]


class Buffers:
    """Room for the factors of the largest product, its result, and a gradient."""

    def __init__(self, products: Iterable[Product]) -> None:
        """Written once, so that they are there; numbers of the size that a model's have."""
        found = list(products)
        sizes = (
            max(p.batch * p.m * p.k for p in found),
            max(p.batch * p.k * p.n for p in found),
            max(p.batch * p.m * p.n for p in found),
            max(p.batch * max(p.m, p.n) * p.k for p in found),
            max(p.n for p in found),
        )
        generator = torch.Generator().manual_seed(0)
        self.left, self.right, self.out, self.gradient, self.bias = (
            torch.empty(size).uniform_(-1, 1, generator=generator) for size in sizes
        )

    def calls(self, product: Product) -> tuple[Call, tuple[Call, Call]]:
        """The product forward, and the two of its backward pass, each ready to be run."""
        m, k, n = product.m, product.k, product.n
        front = (product.batch,) if product.batch > 1 else ()
        multiply: Callable[..., torch.Tensor] = torch.bmm if front else torch.mm
        left, out = _shaped(self.left, *front, m, k), _shaped(self.out, *front, m, n)
        stored = (*front, n, k) if product.transposed else (*front, k, n)
        right, by_right = _shaped(self.right, *stored), _shaped(self.gradient, *stored)
        by_left = _shaped(self.gradient, *front, m, k)
        factor, back = (right.mT, right) if product.transposed else (right, right.mT)
        pair = (out.mT, left) if product.transposed else (left.mT, out)
        bias = self.bias[:n]

        def forward() -> torch.Tensor:
            if product.bias:
                return torch.addmm(bias, left, factor, out=out)
            return multiply(left, factor, out=out)

        return forward, (
            lambda: multiply(out, back, out=by_left),
            lambda: multiply(*pair, out=by_right),
        )


class Ceiling:
    """Runs the products of passes, as often as it is asked."""

    def __init__(self, size: Size, passes: Iterable[Pass]) -> None:
        """`passes`: all that will be asked for; others may not fit the buffers."""
        self.size = size
        self.buffers = Buffers(
            product
            for one in set(passes)
            for product in [*layer_products(size, one), *head_products(size, one)]
        )
        self._known: dict[Product, tuple[Call, tuple[Call, Call]]] = {}

    def seconds(self, passes: Sequence[Pass]) -> float:
        """How long the products of these passes take, in the order of a model."""
        calls = [call for one in passes for call in self.calls(one)]
        started = time.perf_counter()
        for call in calls:
            call()
        return time.perf_counter() - started

    def calls(self, one: Pass) -> list[Call]:
        """The products of a pass: layer after layer, the heads, and all the way back."""
        layer, heads = layer_products(self.size, one), head_products(self.size, one)
        ready = [self._ready(product) for product in layer * self.size.layers + heads]
        calls = [forward for forward, _ in ready]
        if one.backward:
            calls += [call for _, backward in reversed(ready) for call in backward]
        return calls

    def _ready(self, product: Product) -> tuple[Call, tuple[Call, Call]]:
        if product not in self._known:
            self._known[product] = self.buffers.calls(product)
        return self._known[product]


def _shaped(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The front of a buffer in a shape."""
    return buffer[: math.prod(shape)].view(shape)

"""The ceiling computes the products that it claims, and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench_work import small, uneven
from tokencredit.bench.ceiling import Buffers, Ceiling
from tokencredit.bench.plan import (
    PHASES,
    Pass,
    Product,
    executed,
    flops,
    head_products,
    layer_products,
    plan,
)
from tokencredit.bench.workload import Work

WORKS = pytest.mark.parametrize(
    "work", [small(), uneven(), uneven("llama")], ids=["equal", "uneven", "llama"]
)


class Record(TorchDispatchMode):
    """Every operation, and the shapes of the two factors of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[str(func)] += 1
        left, right = args[-2:]
        self.shapes.append((tuple(left.shape), tuple(right.shape)))
        return func(*args, **(kwargs or {}))


def ceiling_of(work: Work) -> tuple[Ceiling, dict[str, list[Pass]]]:
    passes = plan(work, executed(work, 0))
    return Ceiling(work.size, [one for phase in PHASES for one in passes[phase]]), passes


@WORKS
def test_its_flops_are_those_of_the_passes(work: Work) -> None:
    ceiling, passes = ceiling_of(work)
    for phase in PHASES:
        with FlopCounterMode(display=False) as counter:
            ceiling.seconds(passes[phase])
        assert counter.get_total_flops() == flops(work.size, passes[phase])


@WORKS
def test_it_runs_products_and_nothing_else(work: Work) -> None:
    ceiling, passes = ceiling_of(work)
    one = passes["optimisation"][0]
    calls = ceiling.calls(one)  # views are made beforehand
    with Record() as record:
        for call in calls:
            call()
    assert set(record.names) <= {"aten.mm.out", "aten.addmm.out", "aten.bmm.out"}
    products = layer_products(work.size, one) * work.size.layers + head_products(work.size, one)
    assert record.names.total() == 3 * len(products)
    forward = [
        ((*front, p.m, p.k), (*front, p.k, p.n))
        for p in products
        for front in [(p.batch,) if p.batch > 1 else ()]
    ]
    assert record.shapes[: len(products)] == forward


def test_the_forward_shapes_by_hand() -> None:
    """GPT-2, two layers, 32 wide: three rows of 8 tokens, 12 response tokens, 50 words."""
    one = Pass(3, 8, 8, ((12, 50), (12, 1)))
    calls = Ceiling(small().size, [one]).calls(one)
    with Record() as record:
        for call in calls:
            call()
    layer = [
        ((24, 32), (32, 96)),
        ((3, 8, 32), (3, 32, 8)),
        ((3, 8, 8), (3, 8, 32)),
        ((24, 32), (32, 32)),
        ((24, 32), (32, 128)),
        ((24, 128), (128, 32)),
    ]
    assert record.shapes == [*layer, *layer, ((12, 32), (32, 50)), ((12, 32), (32, 1))]


@pytest.mark.parametrize(
    "product",
    [
        Product(3, 4, 5),
        Product(3, 4, 5, bias=True),
        Product(3, 4, 5, transposed=True),
        Product(3, 4, 5, batch=2),
        Product(3, 4, 5, batch=2, transposed=True),
    ],
)
def test_a_product_and_its_gradients_are_those_of_autograd(product: Product) -> None:
    buffers = Buffers([product, Product(7, 9, 8, batch=2)])
    front = (product.batch,) if product.batch > 1 else ()
    shape = (*front, 5, 4) if product.transposed else (*front, 4, 5)
    size = product.batch
    left = buffers.left[: size * 12].view(*front, 3, 4).clone().requires_grad_()
    stored = buffers.right[: size * 20].view(shape).clone().requires_grad_()
    expected = left @ (stored.mT if product.transposed else stored)
    if product.bias:
        expected = expected + buffers.bias[:5]
    forward, (by_left, by_right) = buffers.calls(product)
    torch.testing.assert_close(forward(), expected)
    upstream = buffers.out[: size * 15].view(*front, 3, 5).clone()
    expected.backward(upstream)
    torch.testing.assert_close(by_left(), left.grad)
    torch.testing.assert_close(by_right(), stored.grad)


def test_nothing_is_allocated_while_it_runs() -> None:
    work = uneven()
    ceiling, passes = ceiling_of(work)
    inside = {buffer.data_ptr() for buffer in vars(ceiling.buffers).values()}
    for one in passes["optimisation"]:
        assert {call().untyped_storage().data_ptr() for call in ceiling.calls(one)} <= inside


def test_seconds_grow_with_the_passes() -> None:
    work = small()
    ceiling, passes = ceiling_of(work)
    once = ceiling.seconds(passes["optimisation"])
    assert 0 < once < ceiling.seconds(passes["optimisation"] * 200)

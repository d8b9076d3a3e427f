"""The learning rate's course, and the ranges of the optimizer's numbers."""

from __future__ import annotations

import pytest

from tokencredit.algorithms.optimizer import Course, Optimizer
from tokencredit.errors import UserError


def rates(optimizer: Optimizer, steps: int) -> list[float]:
    return [optimizer.rate_at(step) for step in range(steps)]


def test_constant() -> None:
    assert rates(Optimizer(learning_rate=0.5), 3) == [0.5, 0.5, 0.5]


def test_linear_with_warm_up() -> None:
    optimizer = Optimizer(learning_rate=1.0, warmup_steps=2, course=Course.linear, schedule_steps=6)
    assert rates(optimizer, 8) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0, 0])


def test_cosine() -> None:
    optimizer = Optimizer(learning_rate=2.0, course=Course.cosine, schedule_steps=4)
    half = 2**0.5 / 2
    assert rates(optimizer, 6) == pytest.approx([2, 1 + half, 1, 1 - half, 0, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("numbers", "key"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
        ({"eps": 0.0}, "eps"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"course": Course.linear}, "schedule_steps"),
        ({"course": Course.cosine, "schedule_steps": 5, "warmup_steps": 5}, "schedule_steps"),
    ],
)
def test_numbers_out_of_range(numbers: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.optimizer\.{key} = "):
        Optimizer(**numbers)  # type: ignore[arg-type]

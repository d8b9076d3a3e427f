"""The learning rate's course, and the ranges of the optimizer's numbers."""

from __future__ import annotations

import pytest

from tokencredit.algorithms.optimizer import ClipNorm, Optimizer, Schedule, ValueOptimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError


def rates(optimizer: Optimizer, steps: int) -> list[float]:
    return [optimizer.rate_at(step) for step in range(steps)]


def test_constant() -> None:
    assert rates(Optimizer(learning_rate=0.5), 3) == [0.5, 0.5, 0.5]


def test_linear_with_warm_up() -> None:
    optimizer = Optimizer(
        learning_rate=1.0, warmup_steps=2, schedule=Schedule.linear, schedule_steps=6
    )
    assert rates(optimizer, 8) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0, 0])


def test_cosine() -> None:
    optimizer = Optimizer(learning_rate=2.0, schedule=Schedule.cosine, schedule_steps=4)
    half = 2**0.5 / 2
    assert rates(optimizer, 6) == pytest.approx([2, 1 + half, 1, 1 - half, 0, 0], abs=1e-12)


@pytest.mark.parametrize("schedule", [Schedule.linear, Schedule.cosine])
def test_courses_end_at_the_floor(schedule: Schedule) -> None:
    optimizer = Optimizer(learning_rate=2.0, schedule=schedule, schedule_steps=4, floor=0.1)
    found = rates(optimizer, 7)
    assert found[0] == 2.0 and found[4:] == pytest.approx([0.2] * 3)
    assert found[2] == pytest.approx(2 * (0.1 + 0.9 * 0.5))


def test_warm_up_as_a_share_is_rounded_up() -> None:
    optimizer = Optimizer(learning_rate=1.0, warmup_fraction=0.03, schedule_steps=100)
    assert optimizer.warmup() == 3 and rates(optimizer, 4) == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert Optimizer(warmup_fraction=0.03, schedule_steps=101).warmup() == 4
    assert Optimizer(warmup_steps=7, schedule_steps=100).warmup() == 7
    both = Optimizer(
        learning_rate=1.0, warmup_fraction=0.5, schedule_steps=4, schedule=Schedule.linear
    )
    assert rates(both, 5) == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])


def test_value_function_takes_the_policys_numbers_where_it_has_none() -> None:
    policy = Optimizer(learning_rate=1e-3, beta2=0.95, weight_decay=0.1, max_grad_norm=2.0)
    assert ValueOptimizer().filled(policy) == policy
    numbers = PPO(optimizer=policy, value_optimizer=ValueOptimizer(learning_rate=9e-6)).optimizers()
    assert numbers["policy"] == policy
    assert numbers["value"].learning_rate == 9e-6
    assert (numbers["value"].beta2, numbers["value"].weight_decay) == (0.95, 0.1)
    assert numbers["value"].max_grad_norm == 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.5),
        ("beta1", 0.5),
        ("beta2", 0.5),
        ("weight_decay", 0.5),
        ("warmup_steps", 5),
        ("warmup_fraction", 0.5),
        ("schedule", Schedule.constant),
        ("floor", 0.5),
    ],
)
def test_value_function_has_numbers_of_its_own(name: str, value: object) -> None:
    policy = Optimizer(learning_rate=1.0, schedule=Schedule.cosine, schedule_steps=10)
    filled = ValueOptimizer(**{name: value}).filled(policy)  # type: ignore[arg-type]
    changed = {
        n for n in Optimizer.__dataclass_fields__ if getattr(filled, n) != getattr(policy, n)
    }
    assert changed == {name} and getattr(filled, name) == value


def test_value_functions_warm_up_replaces_the_policys_in_either_form() -> None:
    policy = Optimizer(learning_rate=1.0, warmup_fraction=0.5, schedule_steps=10)
    assert ValueOptimizer(warmup_steps=2).filled(policy).warmup() == 2
    assert ValueOptimizer(warmup_steps=0).filled(policy).warmup() == 0
    policy = Optimizer(learning_rate=1.0, warmup_steps=5, schedule_steps=10)
    assert ValueOptimizer(warmup_fraction=0.1).filled(policy).warmup() == 1


def test_value_functions_course_needs_the_policys_horizon() -> None:
    with pytest.raises(UserError, match=r"algorithm\.optimizer\.schedule_steps = None"):
        PPO(value_optimizer=ValueOptimizer(schedule=Schedule.linear))


@pytest.mark.parametrize(
    ("numbers", "key"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": 1.5}, "beta2"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_fraction": 1.0}, "warmup_fraction"),
        ({"warmup_steps": 2, "warmup_fraction": 0.1}, "warmup_fraction"),
        ({"floor": 1.5}, "floor"),
    ],
)
def test_value_functions_numbers_out_of_range(numbers: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.value_optimizer\.{key} = "):
        ValueOptimizer(**numbers)  # type: ignore[arg-type]


def test_one_norm_over_both_groups_unless_told_otherwise() -> None:
    assert Optimizer().clip_norm is ClipNorm.joint


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
        ({"warmup_fraction": -0.1}, "warmup_fraction"),
        ({"warmup_fraction": 0.1}, "schedule_steps"),
        ({"warmup_fraction": 0.1, "warmup_steps": 3, "schedule_steps": 9}, "warmup_fraction"),
        ({"floor": -0.1}, "floor"),
        ({"schedule": Schedule.linear}, "schedule_steps"),
        ({"schedule": Schedule.cosine, "schedule_steps": 5, "warmup_steps": 5}, "schedule_steps"),
    ],
)
def test_numbers_out_of_range(numbers: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.optimizer\.{key} = "):
        Optimizer(**numbers)  # type: ignore[arg-type]

"""The optimizer's numbers, for the policy and, where they differ, for the value function."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from tokencredit.errors import require


class Course(str, Enum):
    """How the learning rate moves after its warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class ClipNorm(str, Enum):
    """Over which parameters the norm is taken that `max_grad_norm` limits."""

    joint = "joint"
    """Policy and value function together."""
    per_group = "per_group"
    """Each by itself, as two separate optimizers would; not with sharded optimizer state."""


@dataclass(slots=True, kw_only=True)
class Optimizer:
    """Adam with decoupled weight decay, warm-up, and a schedule over RL steps."""

    learning_rate: float | None = None
    """Peak learning rate; null: the model's (model.rates.rl)."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled decay; vectors (norms, biases) are never decayed."""
    max_grad_norm: float | None = 1.0
    """The gradient's norm is clipped to this; null: not at all."""
    clip_norm: ClipNorm = ClipNorm.joint
    """joint: one norm over policy and value function; per_group: one for each."""
    warmup_steps: int = 0
    """RL steps in which the learning rate rises from 0."""
    warmup_share: float = 0.0
    """The same as a share of schedule_steps, rounded up; set one of the two."""
    course: Course = Course.constant
    """constant, linear, or cosine (both to floor x peak at schedule_steps)."""
    floor: float = 0.0
    """Share of the peak at which linear and cosine end."""
    schedule_steps: int | None = None
    """Horizon of the course, in RL steps; required unless constant, independent of `steps`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_numbers(self, "algorithm.optimizer")
        require(self.eps > 0, "algorithm.optimizer.eps", self.eps, "must be > 0")
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "algorithm.optimizer.max_grad_norm",
            self.max_grad_norm,
            "must be null (no clipping) or > 0",
        )
        needed = self.course is not Course.constant or self.warmup_share > 0
        require(
            self.schedule_steps is not None or not needed,
            "algorithm.optimizer.schedule_steps",
            self.schedule_steps,
            f"course={self.course.value} with warmup_share={self.warmup_share} needs a horizon",
        )
        require(
            self.schedule_steps is None or self.schedule_steps > self.warmup(),
            "algorithm.optimizer.schedule_steps",
            self.schedule_steps,
            f"must exceed the warm-up, which takes {self.warmup()} steps",
        )

    def warmup(self) -> int:
        """RL steps of the warm-up, however it was given."""
        if self.schedule_steps is None:
            return self.warmup_steps
        share = math.ceil(self.warmup_share * self.schedule_steps - 1e-9)
        return max(self.warmup_steps, share)

    def rate_at(self, step: int) -> float:
        """The learning rate of RL step `step`, which counts from 0; `learning_rate` must be set.

        Negative steps are updates before the run's first: they have the peak.
        """
        assert self.learning_rate is not None
        if step < 0:
            return self.learning_rate
        rising = self.warmup()
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.course is Course.constant or self.schedule_steps is None:
            return self.learning_rate
        done = min(1.0, (step - rising) / (self.schedule_steps - rising))
        falling = 1 - done if self.course is Course.linear else 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.floor + (1 - self.floor) * falling)


@dataclass(slots=True, kw_only=True)
class ValueOptimizer:
    """Numbers of the value function's parameters; null: those of the policy."""

    learning_rate: float | None = None
    """Peak learning rate."""
    beta1: float | None = None
    """Decay of the first moment."""
    beta2: float | None = None
    """Decay of the second moment."""
    weight_decay: float | None = None
    """Decoupled decay."""
    warmup_steps: int | None = None
    """RL steps in which the learning rate rises from 0."""
    warmup_share: float | None = None
    """The same as a share of the policy's schedule_steps."""
    course: Course | None = None
    """constant, linear, or cosine over the policy's schedule_steps."""
    floor: float | None = None
    """Share of the peak at which linear and cosine end."""

    def __post_init__(self) -> None:
        """Check the ranges of what is set."""
        check_numbers(self, "algorithm.value_optimizer")

    def filled(self, policy: Optimizer) -> Optimizer:
        """The policy's numbers with these in their place, where they are set.

        A warm-up that is set, by steps or by share, replaces the policy's in either form.
        """
        own = {name: getattr(self, name) for name in ValueOptimizer.__dataclass_fields__}
        found = {name: value for name, value in own.items() if value is not None}
        if "warmup_steps" in found or "warmup_share" in found:
            found = {"warmup_steps": 0, "warmup_share": 0.0} | found
        return replace(policy, **found)


def check_numbers(numbers: Optimizer | ValueOptimizer, prefix: str) -> None:
    """Raise for a number out of range; null passes."""

    def check(name: str, inside: bool, rule: str) -> None:
        value = getattr(numbers, name)
        require(value is None or inside, f"{prefix}.{name}", value, rule)

    rate, decay = numbers.learning_rate, numbers.weight_decay
    check("learning_rate", rate is not None and rate >= 0, "must be null or >= 0")
    for name in ("beta1", "beta2"):
        value = getattr(numbers, name)
        check(name, value is not None and 0 <= value < 1, "must lie in [0, 1)")
    check("weight_decay", decay is not None and decay >= 0, "must be >= 0")
    steps, share = numbers.warmup_steps, numbers.warmup_share
    check("warmup_steps", steps is not None and steps >= 0, "must be >= 0")
    check("warmup_share", share is not None and 0 <= share < 1, "must lie in [0, 1)")
    require(
        not (steps and share),
        f"{prefix}.warmup_share",
        share,
        f"warmup_steps = {steps} is set too; set one of the two",
    )
    floor = numbers.floor
    check("floor", floor is not None and 0 <= floor <= 1, "must lie in [0, 1]")

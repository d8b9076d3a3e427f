"""The optimizer's numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from tokencredit.errors import require


class Course(str, Enum):
    """How the learning rate moves after its warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


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
    """Global gradient norm is clipped to this; null: not at all."""
    warmup_steps: int = 0
    """RL steps in which the learning rate rises from 0."""
    course: Course = Course.constant
    """constant, linear, or cosine (both to 0 at schedule_steps)."""
    schedule_steps: int | None = None
    """Horizon of the course, in RL steps; required unless constant, independent of `steps`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.learning_rate is None or self.learning_rate >= 0,
            "algorithm.optimizer.learning_rate",
            self.learning_rate,
            "must be null or >= 0",
        )
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"algorithm.optimizer.{name}", value, "must lie in [0, 1)")
        require(self.eps > 0, "algorithm.optimizer.eps", self.eps, "must be > 0")
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "algorithm.optimizer.max_grad_norm",
            self.max_grad_norm,
            "must be null (no clipping) or > 0",
        )
        require(
            self.weight_decay >= 0,
            "algorithm.optimizer.weight_decay",
            self.weight_decay,
            "must be >= 0",
        )
        require(
            self.warmup_steps >= 0,
            "algorithm.optimizer.warmup_steps",
            self.warmup_steps,
            "must be >= 0",
        )
        require(
            self.course is Course.constant
            or (self.schedule_steps is not None and self.schedule_steps > self.warmup_steps),
            "algorithm.optimizer.schedule_steps",
            self.schedule_steps,
            f"course={self.course.value} needs a horizon above warmup_steps = {self.warmup_steps}",
        )

    def rate_at(self, step: int) -> float:
        """The learning rate of RL step `step`, which counts from 0; `learning_rate` must be set."""
        assert self.learning_rate is not None
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.course is Course.constant or self.schedule_steps is None:
            return self.learning_rate
        span = self.schedule_steps - self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / span)
        if self.course is Course.linear:
            return self.learning_rate * (1 - done)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

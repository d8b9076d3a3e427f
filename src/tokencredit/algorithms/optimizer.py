"""The optimizer's numbers, for the policy and, where they differ, for the value function."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import ClassVar

from tokencredit.errors import require
from tokencredit.fields import Settings, named, number


class Schedule(str, Enum):
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
class Optimizer(Settings):
    """Adam with decoupled weight decay, warm-up, and a schedule over RL steps."""

    section: ClassVar[str] = "algorithm.optimizer"

    learning_rate: float | None = number(None, at_least=0, null="")
    """Peak learning rate; null: the model's (model.rates.rl)."""
    beta1: float = number(0.9, at_least=0, below=1)
    """Decay of the first moment."""
    beta2: float = number(0.999, at_least=0, below=1)
    """Decay of the second moment."""
    eps: float = number(1e-8, above=0)
    """Added to the root of the second moment."""
    weight_decay: float = number(0.0, at_least=0)
    """Decoupled decay; vectors (norms, biases) are never decayed."""
    max_grad_norm: float | None = number(1.0, above=0, null="no clipping")
    """The gradient's norm is clipped to this; null: not at all."""
    clip_norm: ClipNorm = ClipNorm.joint
    """joint: one norm over policy and value function; per_group: one for each."""
    warmup_steps: int = number(0, at_least=0)
    """RL steps in which the learning rate rises from 0."""
    warmup_fraction: float = named("warmup_share", number(0.0, at_least=0, below=1))
    """Steps of warm-up as a share of schedule_steps, rounded up; set one of the two."""
    schedule: Schedule = named("course", Schedule.constant)
    """constant, linear, or cosine (both to floor x peak at schedule_steps)."""
    floor: float = number(0.0, at_least=0, at_most=1)
    """Share of the peak at which linear and cosine end."""
    schedule_steps: int | None = None
    """Horizon of the schedule, in RL steps; required unless constant, independent of `steps`."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Settings.__post_init__(self)
        check_warmup(self)
        needed = self.schedule is not Schedule.constant or self.warmup_fraction > 0
        require(
            self.schedule_steps is not None or not needed,
            "algorithm.optimizer.schedule_steps",
            self.schedule_steps,
            f"schedule={self.schedule.value} with warmup_fraction={self.warmup_fraction} needs a "
            "horizon",
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
        share = math.ceil(self.warmup_fraction * self.schedule_steps - 1e-9)
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
        if self.schedule is Schedule.constant or self.schedule_steps is None:
            return self.learning_rate
        done = min(1.0, (step - rising) / (self.schedule_steps - rising))
        linear = self.schedule is Schedule.linear
        falling = 1 - done if linear else 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.floor + (1 - self.floor) * falling)


@dataclass(slots=True, kw_only=True)
class ValueOptimizer(Settings):
    """Numbers of the value function's parameters; null: those of the policy."""

    section: ClassVar[str] = "algorithm.value_optimizer"

    learning_rate: float | None = number(None, at_least=0, null="")
    """Peak learning rate."""
    beta1: float | None = number(None, at_least=0, below=1)
    """Decay of the first moment."""
    beta2: float | None = number(None, at_least=0, below=1)
    """Decay of the second moment."""
    weight_decay: float | None = number(None, at_least=0)
    """Decoupled decay."""
    warmup_steps: int | None = number(None, at_least=0)
    """RL steps in which the learning rate rises from 0."""
    warmup_fraction: float | None = named("warmup_share", number(None, at_least=0, below=1))
    """Steps of warm-up as a share of the policy's schedule_steps."""
    schedule: Schedule | None = named("course", None)
    """constant, linear, or cosine over the policy's schedule_steps."""
    floor: float | None = number(None, at_least=0, at_most=1)
    """Share of the peak at which linear and cosine end."""

    def __post_init__(self) -> None:
        """Check the numbers that are set, and that they fit one another."""
        Settings.__post_init__(self)
        check_warmup(self)

    def filled(self, policy: Optimizer) -> Optimizer:
        """The policy's numbers with these in their place, where they are set.

        A warm-up that is set, by steps or by share, replaces the policy's in either form.
        """
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        found = {name: value for name, value in own.items() if value is not None}
        if "warmup_steps" in found or "warmup_fraction" in found:
            found = {"warmup_steps": 0, "warmup_fraction": 0.0} | found
        return replace(policy, **found)


def check_warmup(numbers: Optimizer | ValueOptimizer) -> None:
    """Raise where the warm-up is given twice."""
    steps, fraction = numbers.warmup_steps, numbers.warmup_fraction
    require(
        not (steps and fraction),
        f"{numbers.section}.warmup_fraction",
        fraction,
        f"warmup_steps = {steps} is set too; set one of the two",
    )

"""PPO iterations as runs do them, with a clock on each phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tokencredit.algorithms.algorithm import State
from tokencredit.bench.build import learner_of
from tokencredit.bench.configuration import config_of
from tokencredit.bench.workload import Work
from tokencredit.models.actors import Actors
from tokencredit.models.loading.model import parameter_count
from tokencredit.models.loading.trunk import backbone
from tokencredit.rl.update import Updater
from tokencredit.rl.world import compute_deterministically
from tokencredit.rollout import Rollout, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one iteration took; the three phases are disjoint and add up to `whole`."""

    whole: float
    """Seconds of the step."""
    generation: float
    """Seconds in which responses were sampled."""
    scoring: float
    """Seconds of everything else before the first minibatch: log-probabilities of policy and
    reference, values, reward model, token rewards, advantages."""
    optimisation: float
    """Seconds from the first minibatch to the end: the epochs, and the step's metrics."""
    response_tokens: int
    optimizer_steps: int
    weight_change: float
    """Largest change of a watched weight: 0 would mean that nothing was trained."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Clock:
    """Seconds of generation, and when the update began."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.generation = self.update_began = 0.0

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Add what happens inside to generation."""
        began = time.perf_counter()
        yield
        self.generation += time.perf_counter() - began


class ClockedActors(Actors):
    """Actors whose responses are timed."""

    clock: Clock

    def respond(self, *args: Any, **options: Any) -> Rollout:
        """Responses of `model`, timed; arguments are those of `Actors.respond`."""
        with self.clock.generating():
            return Actors.respond(self, *args, **options)


class ClockedUpdater(Updater):
    """An updater that notes when it begins, and what it finds."""

    clock: Clock
    optimizer_steps: int
    response_tokens: int

    def update(
        self, rollout: Rollout, targets: Targets, state: State, step: int
    ) -> dict[str, float]:
        """The updates of a step, which are noted as they begin; see `Updater.update`."""
        self.clock.update_began = time.perf_counter()
        self.response_tokens = int(rollout.response_mask.sum())
        found = Updater.update(self, rollout, targets, state, step)
        self.optimizer_steps = int(found["optimizer/steps"])
        return found


class Loop:
    """A run on random weights, one timed step at a time."""

    def __init__(self, work: Work) -> None:
        """Everything stands afterwards: nothing is left to be built in the first step.

        Sets the number of threads and the determinism of this process as a run does.
        """
        self.work = work
        torch.set_num_threads(work.threads)
        compute_deterministically()
        self.learner = learner_of(work, config_of(work))
        self.clock = Clock()
        actors, updater = self.learner.actors, self.learner.updater
        clocked = ClockedActors(actors.policy, actors.reference, actors.tokenizer)
        watching = ClockedUpdater(updater.engine, updater.algorithm, updater.seed)
        clocked.clock = watching.clock = self.clock
        self.learner.actors, self.learner.updater = clocked, watching
        self._updater = watching
        self.log = self.learner.log(None)

    @property
    def parameters(self) -> int:
        """Weights of the policy, those of its value head included."""
        return parameter_count(self.learner.actors.policy)

    def iterate(self, step: int) -> Iteration:
        """One step; its number names its random streams."""
        watched = self._watched()
        before = watched.clone()
        self.clock.generation = 0.0
        began = time.perf_counter()
        self.learner.step(step, self.log)
        ended = time.perf_counter()
        optimisation = ended - self.clock.update_began
        return Iteration(
            whole=ended - began,
            generation=self.clock.generation,
            scoring=ended - began - self.clock.generation - optimisation,
            optimisation=optimisation,
            response_tokens=self._updater.response_tokens,
            optimizer_steps=self._updater.optimizer_steps,
            weight_change=float((watched - before).abs().max()),
        )

    def _watched(self) -> torch.Tensor:
        """A weight that every loss moves: the last of the trunk."""
        *_, last = backbone(self.learner.engine.module().model).parameters()
        weight: torch.Tensor = last.detach()
        return weight

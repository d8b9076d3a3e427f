"""The optimizer steps on one rollout: minibatches, their micro-batches, and who computes which.

Every process holds the whole rollout. A minibatch is cut into micro-batches of rows of similar
length, dealt to the processes in turn; each process gets the same number of them, so that none
waits for a collective that another never enters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int

from tokencredit.algorithms.algorithm import Algorithm, Decision, State, Sums
from tokencredit.errors import UserError
from tokencredit.ops import keep, without_gradient
from tokencredit.rl.engine import Engine
from tokencredit.rl.micro_batches import deal
from tokencredit.rollout import PolicyOutput, Rollout, Targets
from tokencredit.streams import permutation, stream_key

TOTAL, SLOTS = "total", "slots"


@dataclass(slots=True)
class Totals:
    """What the minibatches of a step add up to."""

    tokens: int = 0
    filled: int = 0
    """Prompt and response tokens that the forward passes read, without padding."""
    slots: float = 0.0
    """Prompt and response tokens that the forward passes read, padding included."""
    sums: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    stopped: int = 0
    steps: int = 0
    grad_norm: float = 0.0
    ratio_max_dev: float = 0.0

    def add(self, found: dict[str, float], tokens: int, norm: float) -> None:
        """Count one minibatch that was taken."""
        self.steps += 1
        self.grad_norm += norm
        self.tokens += tokens
        add_to(self.sums, found)

    def metrics(self) -> dict[str, float]:
        """Token means, and counts of optimizer steps taken and left out."""
        means = {name: value / max(1, self.tokens) for name, value in self.sums.items()}
        return {
            **means,
            "ppo/ratio_max_dev": self.ratio_max_dev,
            "ppo/skipped": float(self.skipped),
            "ppo/stopped": float(self.stopped),
            "optimizer/steps": float(self.steps),
            "optimizer/grad_norm": self.grad_norm / max(1, self.steps),
            "update/padding": 1 - self.filled / self.slots if self.slots else 0.0,
        }


@dataclass(slots=True)
class Updater:
    """Runs the minibatches of each step through an engine."""

    engine: Engine
    algorithm: Algorithm
    seed: int
    """Names the shuffling of minibatches."""
    only: str | None = None
    """The parameter group that moves; None: all."""

    def update(
        self, rollout: Rollout, targets: Targets, state: State, step: int
    ) -> dict[str, float]:
        """`epochs` × `minibatches` optimizer steps on one rollout; their metrics.

        Raises NotFinite for a loss or gradient that is not finite; nothing is moved then.
        """
        rates = self.engine.set_rates(step)
        totals = Totals()
        rollout, targets = rollout.to(self.engine.device), targets.to(self.engine.device)
        for rows in self._minibatches(len(rollout), step):
            decision = self._minibatch(rollout[rows], targets[rows], state, totals, step)
            if decision is Decision.stop:
                break
        named = {f"optimizer/{name}_learning_rate": rate for name, rate in rates.items()}
        named["optimizer/learning_rate"] = named.pop("optimizer/policy_learning_rate")
        read = partial(self._token_means, rollout)
        return {**totals.metrics(), **named, **self.algorithm.after_update(read)}

    @without_gradient
    def _token_means(self, rollout: Rollout, measure: Sums) -> dict[str, float]:
        """What `measure` finds in one more pass over the rollout; means over its tokens."""
        sums: dict[str, torch.Tensor | float] = {}
        for rows, weight in self._own(rollout):
            part = rollout[rows].trimmed()
            add_to(sums, measure(self.engine.forward(part), part), weight)
        tokens = max(1, int(rollout.response_mask.sum()))
        return {n: value / tokens for n, value in self.engine.world.sums(sums).items()}

    def _own(self, rollout: Rollout) -> list[tuple[Int[torch.Tensor, "n"], float]]:
        """The rows of each micro-batch of this process, and the weight of their loss.

        A process with too few rows still runs where the others do, on any row and without weight.
        """
        world = self.engine.world
        parts = deal(rollout.total_lengths, world.hardware.micro_batch, world.size)
        own = parts[world.rank :: world.size]
        any_row = torch.zeros(1, dtype=torch.long, device=rollout.response_mask.device)
        return [(rows, 1.0) if len(rows) else (any_row, 0.0) for rows in own]

    def _minibatches(self, size: int, step: int) -> Iterator[Int[torch.Tensor, "n"]]:
        for epoch in range(self.algorithm.epochs):
            order = permutation(stream_key(self.seed, "minibatch", step, epoch), size)
            yield from (
                torch.from_numpy(order)
                .to(self.engine.device)
                .tensor_split(self.algorithm.minibatches)
            )

    def _minibatch(
        self, rollout: Rollout, targets: Targets, state: State, totals: Totals, step: int
    ) -> Decision:
        engine, algorithm = self.engine, self.algorithm
        denominator = algorithm.denominator(rollout.response_mask)
        first = not (totals.steps or totals.skipped)
        own = self._own(rollout)
        sums: dict[str, torch.Tensor | float] = {}
        deviation = 0.0
        for number, (rows, weight) in enumerate(own, start=1):
            part = rollout[rows].trimmed()
            aims = targets[rows].cut(part.response_mask.shape[1])
            with engine.micro_batch(last=number == len(own)):
                output = engine.forward(part)
                loss = algorithm.loss(output, part, aims, state)
                engine.backward(loss.total * (weight / denominator))
            slots = float(part.prompt_mask.numel() + part.response_mask.numel())
            found: dict[str, torch.Tensor | float] = {TOTAL: loss.total.detach(), SLOTS: slots}
            add_to(sums, found | loss.sums, weight)
            if first and weight:
                deviation = max(deviation, ratio_deviation(output, part))
        if first:
            totals.ratio_max_dev = max(engine.world.gather([deviation]))
        return self._decide(engine.world.sums(sums), rollout, totals, step)

    def _decide(
        self, sums: dict[str, float], rollout: Rollout, totals: Totals, step: int
    ) -> Decision:
        """Take the optimizer step, unless the algorithm says otherwise."""
        total, slots = sums.pop(TOTAL), sums.pop(SLOTS)
        tokens = int(rollout.response_mask.sum())
        totals.slots += slots
        totals.filled += tokens + int(rollout.prompt_mask.sum())
        decision = self.algorithm.decide({n: value / max(1, tokens) for n, value in sums.items()})
        if decision is not Decision.take:
            self.engine.discard()
            totals.skipped += decision is Decision.skip
            totals.stopped += decision is Decision.stop
            return decision
        if not math.isfinite(total):
            self.engine.discard()
            raise NotFinite(step, "loss", total)
        norm = self.engine.step(self.only)
        if not math.isfinite(norm):
            raise NotFinite(step, "gradient norm", norm, self.engine.blamed)
        totals.add(sums, tokens, norm)
        return decision


def add_to(sums: dict[str, Any], found: Mapping[str, Any], weight: float = 1.0) -> None:
    """Add each number, times `weight`, to the sum of its name."""
    for name, value in found.items():
        sums[name] = sums.get(name, 0.0) + weight * value


def ratio_deviation(output: PolicyOutput, rollout: Rollout) -> float:
    """The largest |π / π_old − 1| of any token: 0 but for rounding before the first step."""
    deviation = torch.expm1(output.logp.detach() - rollout.logp).abs()
    return float(keep(deviation, rollout.response_mask).max())


class NotFinite(UserError):
    """A loss or a gradient is not a number; the weights are those before it."""

    def __init__(self, step: int, what: str, value: float, parameter: str = "") -> None:
        """`parameter` names the first one with such a gradient, where that is known."""
        where = f" (first in {parameter})" if parameter else ""
        UserError.__init__(
            self,
            f"step {step}: the {what} is {value}{where}; the last checkpoint is kept. Lower "
            "algorithm.optimizer.learning_rate or set algorithm.reward_clip",
        )


class WeightsNotFinite(NotFinite):
    """The weights themselves are no numbers, so there is nothing to keep or to export."""

    def __init__(self, tensor: str, unwritten: str) -> None:
        """`tensor` is the first that is not finite, `unwritten` what it would have been part of."""
        UserError.__init__(
            self,
            f"{unwritten} is not written: the tensor {tensor} is not finite; the last checkpoint "
            "is kept. Lower algorithm.optimizer.learning_rate or set algorithm.reward_clip",
        )

"""How much computing a step needs: counted by a rule, so that it is the same on every machine.

So is what a whole run has spent, but for memory, which is that of the machine.

A pass that reads a token needs 2 N operations, one that trains on it 6 N, with N all parameters of
the model (Kaplan et al. 2020, §2.1, there without embeddings). Padding needs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tokencredit.algorithms.scores import Normalise
from tokencredit.judges.panel import shares_pass
from tokencredit.models.value import ValueKind
from tokencredit.rollout import Rollout
from tokencredit.store.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tokencredit.algorithms.algorithm import Algorithm
    from tokencredit.config import Config
    from tokencredit.models.actors import Actors

READ: Final = 2
TRAINED: Final = 6
MADE: Final = ("optimizer/steps", "ppo/skipped", "ppo/stopped")
"""Metrics that together count the minibatches a step has computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Operations that one prompt or response token of a rollout needs."""

    rollout: float
    """To generate, score, and judge it."""
    update: float
    """To train on it in one epoch."""
    minibatches: int
    """Of an epoch."""

    @classmethod
    def of(cls, config: Config, actors: Actors, sizes: Mapping[str, int]) -> Self:
        """The numbers of a run; `sizes` are parameters of what judge and scorer read, by role."""
        algorithm = config.policy_algorithm
        policy = _count(actors.policy.model)
        value = 0
        if config.uses_values and config.model.value.kind is not ValueKind.shared:
            trunk = actors.policy.value_trunk
            value = policy if trunk is None else sum(p.numel() for p in trunk.parameters())
        known = {**sizes, "policy": policy}
        panel = [config.judge]
        if not shares_pass(config.judge, config.scorer):
            panel.append(config.scorer)
        judged = sum(n * known[role] for judge in panel for role, n in judge.passes().items())
        reference = policy
        beside = (policy + judged) * algorithm.responses_beside() / algorithm.batch_size
        spoken = policy + policy + value + reference + judged + beside
        return cls(
            rollout=READ * spoken,
            update=TRAINED * (policy + value),
            minibatches=algorithm.minibatches,
        )

    def measure(self, rollout: Rollout, updates: Mapping[str, float]) -> dict[str, float]:
        """The metric of a step, from the counts of its minibatches: left out ones were computed."""
        made = sum(updates[name] for name in MADE) / self.minibatches
        tokens = float(rollout.total_lengths.sum())
        return {"compute/flops": tokens * (self.rollout + made * self.update)}


def _count(model: PreTrainedModel) -> int:
    """Parameters of a model, of which there may be shards (ZeRO-3) beside adapters as a whole."""
    parts = [getattr(own, "ds_numel", None) for own in model.parameters()]
    if not any(parts):
        return int(model.num_parameters())
    return sum(
        own.numel() if n is None else n for n, own in zip(parts, model.parameters(), strict=True)
    )


def stored_parameters(folder: Path) -> int:
    """Parameters in the safetensors files below `folder`, by their headers alone."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                total += math.prod(file.get_slice(name).get_shape())
    return total


def scored_responses(algorithm: Algorithm, steps: int) -> int:
    """Responses that are scored in so many steps, those of the reference in normalisation too."""
    found = steps * (algorithm.batch_size + algorithm.responses_beside())
    if algorithm.normalise is Normalise.reference:
        found += algorithm.normalise_samples
    return found


def spent(config: Config, run: RunFolder) -> dict[str, float | None]:
    """What training has spent, from the logs of a run: right however often it was interrupted.

    Optimizer steps of the policy; response tokens that it was trained on; judge calls, responses
    that judge and scorer have read for training (once where they share a pass), a value warm-up and
    reference scores included; the highest memory of the main process, in MiB. None: not logged.
    """
    rows, times = (log[: run.record()["steps"]] for log in (run.metrics, run.timings))
    algorithm, judges = config.policy_algorithm, 1
    if not shares_pass(config.judge, config.scorer):
        judges = 2
    warmup = algorithm.warmup_rollouts() * algorithm.batch_size
    judged = scored_responses(algorithm, len(rows)) + warmup
    peaks = _logged(times, "memory/peak_mb")
    lengths = _logged(rows, "length/mean")  # a mean of float32, so its sum is a whole number nearly
    tokens = None if lengths is None else sum(round(x * algorithm.batch_size) for x in lengths)
    steps = _logged(rows, "optimizer/steps")
    return {
        "optimizer_steps": None if steps is None else sum(steps),
        "response_tokens": tokens,
        "judge_calls": judges * judged,
        "peak_memory_mb": None if peaks is None else max(peaks),
    }


def _logged(rows: Sequence[Mapping[str, float]], name: str) -> list[float] | None:
    """A metric of every row; None unless all have it."""
    return [row[name] for row in rows] if rows and all(name in row for row in rows) else None

"""What is kept of a step: its numbers, how long its phases took, and what was said."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from tokencredit.algorithms.algorithm import Algorithm, Shaped, State
from tokencredit.machine.memory import peak_mb
from tokencredit.models.tokens.texts import decode
from tokencredit.ops import k1
from tokencredit.rl.compute import Compute
from tokencredit.rl.metrics import describe
from tokencredit.rl.payer import Payer
from tokencredit.rollout import Judgement, Rollout, Targets
from tokencredit.settings import Run
from tokencredit.tracking.tracker import Tracker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a step has made, from responses to updates."""

    rollout: Rollout
    judgement: Judgement
    """As it was given."""
    paid: Judgement
    """With its scores as the scheme was to spread them."""
    rewards: Float[torch.Tensor, "B T"]
    shaped: Shaped
    targets: Targets
    updates: Mapping[str, float]
    evaluated: Mapping[str, float]
    """Of held-out prompts, where this step began with them."""


@dataclass(slots=True)
class Clock:
    """Seconds of each phase of a step."""

    started: float = field(default_factory=time.perf_counter)
    phases: dict[str, float] = field(default_factory=dict)

    def mark(self, phase: str) -> None:
        """The phase that began at the last mark ends now."""
        elapsed = time.perf_counter() - self.started - sum(self.phases.values())
        self.phases[f"time/{phase}_seconds"] = elapsed

    def timings(self, rollout: Rollout) -> dict[str, float]:
        """The phases, and response tokens a second over the step, its evaluation left out."""
        aside = self.phases.get("time/evaluation_seconds", 0.0)
        total = max(sum(self.phases.values()) - aside, 1e-9)
        rate = float(rollout.response_mask.sum()) / total
        assert math.isfinite(rate)
        return {**self.phases, "throughput/tokens_per_second": rate}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """Measures each step, and writes it down where there is a tracker."""

    tracker: Tracker | None
    """None but in the main process."""
    algorithm: Algorithm
    payer: Payer
    compute: Compute | None
    """What a step needs, where that is to be logged."""
    run: Run
    tokenizer: PreTrainedTokenizerBase

    def write(self, step: int, made: Made, state: State, clock: Clock) -> dict[str, float]:
        """Log a step that began in `state`; the metrics that decide the algorithm's next one."""
        rollout, updates = made.rollout, dict(made.updates)
        described = describe(rollout, made.judgement, made.rewards, made.targets)
        described |= self.payer.measure(rollout, made.paid, step)
        described |= self.algorithm.measure(rollout, made.shaped)
        described |= {} if self.compute is None else self.compute.measure(rollout, updates)
        if self.tracker is not None:
            other = {"update/padding": updates.pop("update/padding")}
            peak = peak_mb()
            other |= {} if peak is None else {"memory/peak_mb": peak}
            if rollout.kept is not None:
                other["rollout/kept_bytes"] = float(rollout.kept.bytes)
            metrics = {**described, **state, **updates, **made.evaluated}
            self.tracker.log(step, metrics, {**clock.timings(rollout), **other})
            if self.run.samples and step % self.run.sample_every == 0:
                rows = sample_rows(step, made, self.run.samples, self.tokenizer)
                self.tracker.samples(step, rows)
        return {**described, **updates}

    def offsets(self) -> dict[str, int]:
        """The lengths of the log's files, for a checkpoint."""
        return {} if self.tracker is None else self.tracker.state()


def sample_rows(
    step: int, made: Made, count: int, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """One row for each of the first `count` responses; columns hold their counting tokens only."""
    rollout = made.rollout[torch.arange(min(count, len(made.rollout)))]
    prompts = decode(tokenizer, rollout.prompt_ids, rollout.prompt_mask)
    responses = decode(tokenizer, rollout.response_ids, rollout.response_mask)
    per_token = {
        "rewards": made.rewards,
        "shaped": made.shaped.total,
        "kl": k1(made.rollout.logp, made.rollout.ref_logp),
        "values": made.rollout.values,
        "advantages": made.targets.advantages,
    }
    rows = []
    for index, mask in enumerate(rollout.response_mask):
        ids = rollout.response_ids[index][mask].tolist()
        rows.append(
            {
                "step": step,
                "row": int(rollout.rows[index]),
                "prompt": prompts[index],
                "response": responses[index],
                "score": float(made.judgement.scores[index]),
                "tokens": [tokenizer.decode([token]) for token in ids],
                **{name: values[index][mask].tolist() for name, values in per_token.items()},
            }
        )
    return rows

"""How many optimizer steps an update takes, and that degenerate batches are survived."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from small_update import (
    ALGORITHMS,
    actors_for,
    every_algorithm,
    rewards_of,
    rollout_of,
    small,
    targets_of,
    update,
    updater_of,
    weights,
)
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Record
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.ops import keep
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import Updater

RECORDS = 20
STEPS = 6
"""Of 8 prompts each: records end within steps 2 and 4, and at the end of step 4."""


def steps_taken(updater: Updater, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of the optimizer's steps, as a list that grows."""
    taken: list[int] = []
    step = updater.engine.optimizer.step

    def counted() -> None:
        taken.append(1)
        step()

    monkeypatch.setattr(updater.engine.optimizer, "step", counted)
    return taken


def stream_of(tokenizer: PreTrainedTokenizerFast) -> PromptStream:
    records = [
        Record(row=row, text=f"review {row}: the movie was good and the plot was bad")
        for row in range(RECORDS)
    ]
    sampling = Sampling(min_new_tokens=2, max_new_tokens=6)
    return PromptStream(records, tokenizer, PromptSpec(min_characters=10), sampling, context=64)


def counts(
    algorithm: Algorithm,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch: int | None,
) -> list[int]:
    """Optimizer steps of each of six updates, on prompts that are drawn across data epochs."""
    actors = actors_for(algorithm)
    updater = updater_of(actors, algorithm, micro_batch)
    taken, found, prompts = steps_taken(updater, monkeypatch), [], stream_of(tokenizer)
    for step in range(STEPS):
        batch = prompts.batch(0, step, 8, samples_per_prompt=algorithm.samples_per_prompt)
        rollout = actors.roll_out(batch, ("steps", step))
        before = len(taken)
        update(updater, rollout, targets_of(algorithm, rollout))
        found.append(len(taken) - before)
    return found


@every_algorithm
def test_field_B17_steps_are_epochs_times_minibatches(
    kind: type[Algorithm],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    algorithm = replace(small(kind, rate=1e-6, epochs=2, minibatches=3), ratio_threshold=None)
    assert counts(algorithm, tokenizer, monkeypatch, None) == [6] * STEPS


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_field_B18_steps_stay_the_same_where_data_begin_again(
    micro_batch: int, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = small(ALGORITHMS[0], rate=1e-6, epochs=1, minibatches=2)
    assert counts(algorithm, tokenizer, monkeypatch, micro_batch) == [2] * STEPS


def test_field_B18_a_step_for_every_micro_batch_would_be_seen(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where gradients are synchronised because a loader has come to its end."""
    algorithm = small(ALGORITHMS[0], rate=1e-6, epochs=1, minibatches=2)
    backward = Engine.backward

    def eager(self: Engine, loss: torch.Tensor) -> None:
        backward(self, loss)
        self.optimizer.step()

    monkeypatch.setattr(Engine, "backward", eager)
    assert counts(algorithm, tokenizer, monkeypatch, 2) == [6] * STEPS


@pytest.mark.parametrize(
    "kind", [kind for kind in ALGORITHMS if kind.uses_values], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("whiten", list(Whiten))
def test_field_B22_a_single_token_is_a_batch(kind: type[Algorithm], whiten: Whiten) -> None:
    """One response of one token: whitened, its advantage is 0; the value still learns."""
    algorithm = replace(small(kind), batch_size=1, samples_per_prompt=1, whiten=whiten)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)[torch.tensor([3])].trimmed()
    assert rollout.response_mask.shape == (1, 1)
    targets = targets_of(algorithm, rollout)
    assert (float(targets.advantages) == 0) is (whiten is not Whiten.none)
    before = weights(actors)
    metrics = update(updater_of(actors, algorithm), rollout, targets)
    assert all(math.isfinite(value) for value in metrics.values())
    after = weights(actors)
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(after["value_head.weight"], before["value_head.weight"])


@every_algorithm
def test_field_B22_equal_responses_teach_nothing_and_break_nothing(kind: type[Algorithm]) -> None:
    """Eight times the same response, the same reward for all: no group has a spread."""
    algorithm = small(kind)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)[torch.full((8,), 1)]
    rollout = replace(rollout, groups=torch.arange(8) // 2, ref_logp=rollout.logp)
    rewards = keep(torch.zeros_like(rewards_of(rollout)), rollout.response_mask)
    targets = targets_of(algorithm, rollout, rewards)
    assert targets.advantages.isfinite().all()
    metrics = update(updater_of(actors, algorithm), rollout, targets)
    assert all(math.isfinite(value) for value in metrics.values())


@every_algorithm
def test_field_B22_a_response_without_tokens_is_survived(kind: type[Algorithm]) -> None:
    algorithm = small(kind)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    empty = rollout.response_mask.clone()
    empty[5] = False
    rollout = replace(rollout, response_mask=empty)
    targets = targets_of(algorithm, rollout)
    assert (targets.advantages[5] == 0).all() and targets.advantages.isfinite().all()
    metrics = update(updater_of(actors, algorithm), rollout, targets)
    assert all(math.isfinite(value) for value in metrics.values())

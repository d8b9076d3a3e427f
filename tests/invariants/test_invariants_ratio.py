"""Without learning, the policy that is trained stays the policy that spoke."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builders import ARCHITECTURES
from small_update import (
    ALGORITHMS,
    actors_for,
    every_algorithm,
    rollout_of,
    small,
    targets_of,
    update,
    updater_of,
)
from tokencredit.algorithms.algorithm import Algorithm, Loss, State
from tokencredit.models.actors import Actors
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.passes.packing import Layout
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
STILL = small(ALGORITHMS[0], rate=0.0, epochs=3, minibatches=4)


def deviations(
    actors: Actors,
    algorithm: Algorithm,
    rollout: Rollout,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch: int | None = None,
) -> list[float]:
    """max |π / π_old − 1| of every micro-batch of an update."""
    found: list[float] = []
    loss = Algorithm.loss

    def spy(
        self: Algorithm, output: PolicyOutput, part: Rollout, targets: Targets, state: State
    ) -> Loss:
        gap = torch.expm1(output.logp.detach() - part.logp).abs()
        found.append(float(keep(gap, part.response_mask).max()))
        return loss(self, output, part, targets, state)

    updater = updater_of(actors, algorithm, micro_batch)
    targets = targets_of(algorithm, rollout)
    with monkeypatch.context() as patch:
        patch.setattr(Algorithm, "loss", spy)
        metrics = update(updater, rollout, targets)
    parts = len(found) // (algorithm.epochs * algorithm.minibatches)
    assert metrics["ppo/ratio_max_dev"] == max(found[:parts])  # what is logged is the first
    return found


@every_algorithm
@every_architecture
def test_field_B11_ratio_is_1_in_every_minibatch_of_every_epoch(
    kind: type[Algorithm], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = small(kind, rate=0.0, epochs=3, minibatches=4)
    actors = actors_for(algorithm, architecture)
    found = deviations(actors, algorithm, rollout_of(actors), monkeypatch)
    assert len(found) == 12 and max(found) < 1e-5


@every_architecture
@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_field_B11_ratio_is_1_in_micro_batches_of_any_size(
    architecture: str, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = actors_for(STILL, architecture)
    algorithm = replace(STILL, minibatches=1)
    found = deviations(actors, algorithm, rollout_of(actors), monkeypatch, micro_batch)
    assert len(found) == 3 * -(-8 // micro_batch) and max(found) < 1e-5


@every_architecture
def test_field_B11_ratio_is_1_at_another_temperature(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = actors_for(STILL, architecture, Sampling(temperature=0.7))
    assert max(deviations(actors, STILL, rollout_of(actors), monkeypatch)) < 1e-5


def test_field_B11_with_learning_it_is_1_before_the_first_step_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actors = actors_for(STILL)
    found = deviations(
        actors,
        small(ALGORITHMS[0], rate=3e-3, epochs=3, minibatches=4),
        rollout_of(actors),
        monkeypatch,
    )
    assert found[0] < 1e-5 and min(found[1:]) > 1e-4


def positions_one_late(actors: Actors, patch: pytest.MonkeyPatch) -> None:
    take = Layout.take
    patch.setattr(Layout, "take", lambda self, states: take(self, states.roll(-1, dims=1)))


def padding_on_the_left(actors: Actors, patch: pytest.MonkeyPatch) -> None:
    def joined(rollout: Rollout, filler: int) -> Layout:
        ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)[:, :-1]
        width, mask = rollout.prompt_ids.shape[1], rollout.response_mask
        columns = width - 1 + torch.arange(mask.shape[1])
        places = torch.arange(len(ids))[:, None] * ids.shape[1] + columns
        return Layout(ids, places[mask], mask)

    patch.setattr(Layout, "of", joined)


def dropout(actors: Actors, patch: pytest.MonkeyPatch) -> None:
    for module in actors.policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3


def another_temperature(actors: Actors, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(actors.policy, "sampling", Sampling(temperature=0.7))


def another_policy(actors: Actors, patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        for parameter in actors.policy.parameters():
            parameter.add_(1e-3)


def shifted_ids(actors: Actors, patch: pytest.MonkeyPatch) -> None:
    forward = actors.policy.forward

    def late(rollout: Rollout) -> PolicyOutput:
        return forward(replace(rollout, response_ids=rollout.response_ids.roll(1, dims=1)))

    patch.setattr(actors.policy, "forward", late)


@pytest.mark.parametrize(
    "mutation",
    [
        positions_one_late,
        padding_on_the_left,
        dropout,
        another_temperature,
        another_policy,
        shifted_ids,
    ],
)
def test_field_B11_each_mutation_is_seen(mutation: object, monkeypatch: pytest.MonkeyPatch) -> None:
    actors = actors_for(STILL, "gpt2")
    rollout = rollout_of(actors)
    mutation(actors, monkeypatch)  # type: ignore[operator]
    assert max(deviations(actors, STILL, rollout, monkeypatch)) > 1e-3

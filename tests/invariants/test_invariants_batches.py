"""What must not matter to a gradient: how rows are cut and ordered, padding, and what lies in it."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from builders import ARCHITECTURES
from small_update import (
    ALGORITHMS,
    actors_for,
    distance,
    every_algorithm,
    gradients,
    rollout_of,
    small,
    targets_of,
    update,
    updater_of,
    weights,
)
from tokencredit.algorithms.algorithm import Algorithm, Loss, State
from tokencredit.rollout import PolicyOutput, Rollout, Targets

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
FLOATS = ("logp", "ref_logp", "values")


@every_algorithm
@every_architecture
def test_field_B16_micro_batches_of_any_size_have_one_gradient(
    kind: type[Algorithm], architecture: str
) -> None:
    """8 × 1 = 4 × 2 = 2 × 4 = 1 × 8, with responses of 1 to 9 tokens."""
    algorithm = small(kind)
    actors = actors_for(algorithm, architecture)
    rollout = rollout_of(actors)
    targets = targets_of(algorithm, rollout)
    whole = gradients(actors, algorithm, rollout, targets)
    for size in (1, 2, 3, 4, 8):
        found = gradients(actors, algorithm, rollout, targets, micro_batch=size)
        assert distance(found, whole) < 1e-5, size


@every_algorithm
def test_field_B16_a_mean_of_means_would_be_seen(
    kind: type[Algorithm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each micro-batch's loss divided by its own count, as by common gradient accumulation."""
    algorithm = small(kind)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    targets = targets_of(algorithm, rollout)
    whole = gradients(actors, algorithm, rollout, targets)
    units, parts, loss = int(rollout.response_mask.sum()), 4, Algorithm.loss

    def own_mean(
        self: Algorithm, output: PolicyOutput, part: Rollout, targets: Targets, state: State
    ) -> Loss:
        found = loss(self, output, part, targets, state)
        share = units / parts / int(part.response_mask.sum())
        return replace(found, total=found.total * share)

    monkeypatch.setattr(Algorithm, "loss", own_mean)
    found = gradients(actors, algorithm, rollout, targets, micro_batch=2)
    assert distance(found, whole) > 1e-2


@every_algorithm
def test_order_of_the_rows_does_not_matter(kind: type[Algorithm]) -> None:
    algorithm = small(kind)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    whole = gradients(actors, algorithm, rollout, targets_of(algorithm, rollout))
    order = torch.tensor([6, 1, 0, 7, 3, 5, 2, 4])
    moved = rollout[order]
    targets = targets_of(algorithm, moved)
    assert distance(gradients(actors, algorithm, moved, targets), whole) < 1e-5
    confused = targets_of(algorithm, rollout)  # of the rows as they lay before
    assert distance(gradients(actors, algorithm, moved, confused), whole) > 1e-2


def poisoned(rollout: Rollout, poison: float) -> Rollout:
    """Other numbers and ids wherever nothing counts, in prompts too."""
    mask, prompt = rollout.response_mask, rollout.prompt_mask
    floats = {name: torch.where(mask, getattr(rollout, name), poison) for name in FLOATS}
    return replace(
        rollout,
        **floats,
        response_ids=torch.where(mask, rollout.response_ids, 77),
        prompt_ids=torch.where(prompt, rollout.prompt_ids, 78),
    )


@every_algorithm
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 1e9])
def test_field_B13_poison_moves_no_bit_of_weights_and_metrics(
    kind: type[Algorithm], poison: float
) -> None:
    algorithm = small(kind, epochs=2, minibatches=2)
    ends = []
    for dirty in (False, True):
        actors = actors_for(algorithm)
        rollout = rollout_of(actors)
        targets = targets_of(algorithm, rollout)
        if dirty:
            rollout, mask = poisoned(rollout, poison), rollout.response_mask
            again = targets_of(algorithm, rollout)
            assert torch.equal(again.advantages, targets.advantages)
            spread = {f.name: getattr(again, f.name) for f in fields(again)}
            targets = replace(
                again, **{name: torch.where(mask, x, poison) for name, x in spread.items()}
            )
        metrics = update(updater_of(actors, algorithm), rollout, targets)
        ends.append((weights(actors), metrics))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])


def test_field_B13_a_mask_that_forgets_an_end_lets_poison_in() -> None:
    algorithm = small(ALGORITHMS[0])
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    targets = targets_of(algorithm, rollout)
    clean = gradients(actors, algorithm, rollout, targets)
    dirty = poisoned(rollout, 1e9)
    row = int(rollout.lengths.argmin())
    dirty.response_mask[row, int(rollout.lengths[row])] = True
    assert not distance(gradients(actors, algorithm, dirty, targets), clean) < 1e-2


def padded(batch: Rollout | Targets, left: int, right: int) -> Rollout | Targets:
    """More columns: on the left of prompts, on the right of what is said."""

    def grown(name: str, value: Tensor | None) -> Tensor | None:
        if value is None or value.dim() == 1:
            return value
        sides = (left, 0) if name.startswith("prompt") else (0, right)
        return torch.nn.functional.pad(
            value, sides, value=False if value.dtype == torch.bool else 3
        )

    return replace(batch, **{f.name: grown(f.name, getattr(batch, f.name)) for f in fields(batch)})


@every_algorithm
@every_architecture
def test_papers_S3_padding_on_either_side_changes_no_gradient(
    kind: type[Algorithm], architecture: str
) -> None:
    algorithm = small(kind)
    actors = actors_for(algorithm, architecture)
    rollout = rollout_of(actors)
    targets = targets_of(algorithm, rollout)
    plain = gradients(actors, algorithm, rollout, targets)
    wide = padded(rollout, left=5, right=7)
    assert isinstance(wide, Rollout)
    again = targets_of(algorithm, wide)
    assert torch.allclose(again.advantages[:, : targets.advantages.shape[1]], targets.advantages)
    assert distance(gradients(actors, algorithm, wide, again), plain) < 1e-6
    unmasked = replace(wide, prompt_mask=torch.ones_like(wide.prompt_mask))
    assert distance(gradients(actors, algorithm, unmasked, again), plain) > 1e-2


@every_architecture
def test_a_row_alone_has_the_gradient_it_has_in_company(architecture: str) -> None:
    algorithm = small(ALGORITHMS[0])
    actors = actors_for(algorithm, architecture)
    rollout = rollout_of(actors)
    targets = targets_of(algorithm, rollout)
    whole = gradients(actors, algorithm, rollout, targets) * algorithm.denominator(
        rollout.response_mask
    )
    total = torch.zeros_like(whole)
    for row in torch.arange(8).split(1):
        part = rollout[row].trimmed()
        aims = targets[row].cut(part.response_mask.shape[1])
        total += gradients(actors, algorithm, part, aims) * algorithm.denominator(
            part.response_mask
        )
    assert distance(total, whole) < 1e-5

"""Frozen models between their uses, in one process: where they are, and which they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import tiny_actors
from learning import TASK
from preferences import furnish_pairs
from tokencredit.errors import UserError
from tokencredit.hardware import FrozenModels, Hardware, Sharding
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.weights import load_causal, noting
from tokencredit.rl.engine import Engine
from tokencredit.rl.world import World
from tokencredit.rl.zero import Frozen


@dataclass
class Moved(torch.nn.Module):
    """Notes where it is told to go."""

    places: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.nn.Module.__init__(self)

    def __hash__(self) -> int:
        return id(self)

    def to(self, place: Any) -> Any:
        self.places.append(str(place))
        return self


def test_frozen_models_are_on_their_device_while_they_are_used() -> None:
    model, world = Moved(), World(Hardware(offload_frozen=True))
    frozen = Frozen([model, model], world.hardware, world.device)
    assert model.places == ["cpu"]
    world.hardware = replace(world.hardware)  # the device is the world's own
    frozen.device = torch.device("meta")
    for _ in range(2):
        model.places.clear()
        with frozen.whole() as moved, frozen.whole() as again:
            assert moved and not again
            assert model.places == ["meta"]
        assert model.places == ["meta", "cpu"]
    with pytest.raises(ValueError, match="an error of a pass"), frozen.whole():
        raise ValueError("an error of a pass")
    assert model.places[-1] == "cpu"


def test_they_stay_where_they_are_unless_that_is_asked_for() -> None:
    model, world = Moved(), World(Hardware())
    with Frozen([model], world.hardware, world.device).whole() as moved:
        assert not moved
    assert model.places == []


def test_an_engine_brings_them_together_with_the_policy() -> None:
    model, world = Moved(), World(Hardware(offload_frozen=True))
    engine = Engine(tiny_actors(seed=0).policy, TASK, world, [model])
    with engine.whole() as moved:
        assert moved
    assert model.places == ["cpu", "cpu", "cpu"]  # put away, brought, put away: one device here


def test_models_that_are_read_are_noted_while_they_are_used(tmp_path: Path) -> None:
    folder = furnish_pairs(tmp_path) / "model"
    before = load_causal(folder, Dtype.float32)
    with noting() as told:
        kept = load_causal(folder, Dtype.float32)
        gone = load_causal(folder, Dtype.float32)
    del gone
    load_causal(folder, Dtype.float32)
    assert [id(model) for model in told()] == [id(kept)]
    assert before is not kept


def test_shards_need_deepspeed() -> None:
    with pytest.raises(UserError, match=r"hardware\.frozen = 'sharded': is DeepSpeed's work"):
        Hardware(processes=2, frozen=FrozenModels.sharded)
    for kind in (Sharding.zero1, Sharding.zero2, Sharding.zero3):
        Hardware(processes=2, sharding=kind, frozen=FrozenModels.sharded)

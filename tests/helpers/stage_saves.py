"""The saves of a training without a training: a stand-in for a trainer that takes steps when told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tokencredit.stages.saves import Saves, Saving

START: Mapping[str, object] = {"section": "sft", "seed": 1, "steps": 9, "bits": {"w": 3}}


class State(SimpleNamespace):
    """How far a trainer is, as far as saves read it."""

    def save_to_json(self, path: str) -> None:
        Path(path).write_text(json.dumps({"global_step": self.global_step}))


class Trainer:
    """As much of a trainer as saves touch: a model, its optimizer, and where it stands."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 1)
        self.model.bias.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.state = State(global_step=0, epoch=0.0, max_steps=9)
        self.callbacks: list[Any] = []
        self._tr_loss = torch.tensor(0.0)
        self._initial_global_step = self._globalstep_last_logged = 0

    def add_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def _save_rng_state(self, folder: str) -> None:
        torch.save({"cpu": torch.get_rng_state()}, f"{folder}/rng_state.pth")

    def _load_from_checkpoint(self, folder: str) -> None:
        raise AssertionError("the trainer's own loading was to be replaced")

    def step(self, value: float) -> None:
        """One step, after which every weight is `value`."""
        self.model.weight.data.fill_(value)
        self.state.global_step += 1
        self.state.epoch = self.state.global_step / 4


@dataclass
class Losses:
    """The losses so far."""

    said: list[float] = field(default_factory=list)

    def so_far(self) -> list[float]:
        return self.said

    def go_on(self, losses: list[float]) -> None:
        self.said = losses


def saving(folder: Path, **other: Any) -> Saving:
    given: dict[str, Any] = {
        "what": "sft 12ab",
        "folder": folder / "12ab.saves",
        "minutes": 10.0,
        "arithmetic": {"device": "cpu", "stage_threads": 2},
        "inexact": False,
    }
    return Saving(**given | other)


def saves(folder: Path, start: Mapping[str, object] = START, **other: Any) -> Saves:
    return Saves(saving(folder, **other), Trainer(), Losses(), start)


def saved(folder: Path, steps: int, **other: Any) -> Saves:
    """Saves of a training that was saved behind each of so many steps."""
    found = saves(folder, **other)
    trainer: Any = found.trainer
    found.attach()
    found.begin()
    found.begin_epoch()
    for step in range(steps):
        trainer.step(float(step))
        found.losses.so_far().append(step / 2)
        trainer._tr_loss += step / 2
        found.save()
    return found

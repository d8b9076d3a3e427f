"""One process of stages before RL, in the environment of a rank."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

import built_stages
from tokencredit.hardware import Hardware, Offload, Sharding
from tokencredit.stages import trainer as training
from tokencredit.stages.stage import Stage

STEPS = 2


def stage_of(kind: str, place: Path, store: Path, sharding: str) -> Stage:
    """The stage, of two steps, on such hardware; `sharding` may end with +OFFLOAD."""
    stage = built_stages.stage_of(kind, place, store)
    settings = stage.training
    assert settings is not None
    settings.max_steps, settings.max_tokens = STEPS, None
    settings.batch_size, settings.warmup_fraction = 4, 0.0
    divided, _, offload = sharding.partition("+")
    stage.context.config.hardware = Hardware(
        processes=1 if sharding == "none" else 2,
        sharding=Sharding(divided),
        offload=Offload(offload or "none"),
        stage_threads=1,
        whole_below=0,
    )
    return stage


def observed(trainer: Any) -> dict[str, Any]:
    """What a trainer was when it had trained."""
    engine, parameters = trainer.model_wrapped, list(trainer.model.parameters())
    return {
        "kind": str(trainer.accelerator.distributed_type),
        "stage": engine.zero_optimization_stage(),
        "held": sum(p.numel() for p in parameters),
        "shards": sum(getattr(p, "ds_tensor", p).numel() for p in parameters),
        "whole": sum(getattr(p, "ds_numel", p.numel()) for p in parameters),
    }


def main(place: Path, store: Path, sharding: str, kinds: list[str]) -> None:
    """Build stages of these kinds; what they start from is in `store` already, and
    report-<rank>.json comes there."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    trained: Any = training
    inner, now = trained.finish, ""

    def finish(trainer: Any, *rest: Any) -> Any:
        report[now] = observed(trainer)
        return inner(trainer, *rest)

    trained.finish = finish
    for now in kinds:
        stage_of(now, place, store, sharding).build()
        AcceleratorState._reset_state()  # a process has one stage, and one trainer
    (store / f"report-{os.environ['RANK']}.json").write_text(json.dumps(report))

"""One process of a small RL loop, in the environment of a rank."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from builders import make_prompts, tiny_actors
from learning import TASK
from tokencredit.hardware import FrozenModels, Hardware, Offload, Sharding
from tokencredit.models.actors import Actors
from tokencredit.ops import k1, keep, masked_sum
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.collector import Collector, Speaker
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Prompts, Rollout

LENGTHS = [2, 5, 3, 4, 2, 6, 3, 4]
LIMITS = [4, 9, 6, 3, 8, 5, 7, 6]
FORCED = "forced.safetensors"


def judge(rollout: Rollout) -> Judgement:
    """Even ids are good, odd ones bad."""
    evidence = keep(1.0 - 2.0 * (rollout.response_ids % 2), rollout.response_mask)
    return Judgement(scores=masked_sum(evidence, rollout.response_mask), evidence=evidence)


def speaker(actors: Actors, step: int, forced: Path | None) -> Speaker:
    """What answers the prompts of a step: the policy, or the recorded responses."""

    def speak(prompts: Prompts) -> Rollout:
        said = actors.roll_out(prompts, ("ranks", step))
        if forced is None:
            return said
        known = load_file(forced)
        rows = prompts.rows - 10
        ids, mask = (known[f"{name}-{step}"][rows] for name in ("ids", "mask"))
        empty = torch.zeros(ids.shape)
        return actors.score(
            replace(
                said,
                response_ids=ids,
                response_mask=mask,
                finished=known[f"finished-{step}"][rows],
                logp=empty,
                ref_logp=empty,
                values=empty,
            )
        )

    return speak


def optimizer_elements(engine: Engine) -> int:
    """Numbers of optimizer state that this process holds."""
    optimizer = engine.policy.optimizer.optimizer if engine.world.sharded else engine.optimizer
    tensors = [t for state in optimizer.state.values() for t in state.values()]
    return sum(t.numel() for t in tensors if torch.is_tensor(t) and t.dim() > 0)


def hardware_of(sharding: str) -> Hardware:
    """As the command line says it."""
    live, _, beside = sharding.partition(":")
    kind, _, offload = live.partition("+")
    frozen, _, away = (beside or "whole").partition("-")
    return Hardware(
        processes=int(os.environ.get("WORLD_SIZE", "1")),
        sharding=Sharding(kind),
        offload=Offload(offload or "none"),
        frozen=FrozenModels(frozen),
        offload_frozen=away == "away",
        whole_below=0,
    )


def discard(engine: Engine, rollout: Rollout) -> None:
    """Take gradients of this process's part of the responses, and leave them out."""
    part = rollout[torch.arange(engine.world.rank, len(rollout), engine.world.size)]
    with engine.micro_batch(last=True):
        output = engine.forward(part)
        assert output.values is not None
        engine.backward(output.logp.sum() + output.values.sum())
    engine.discard()


def report_of(engine: Engine, reference: torch.nn.Module) -> dict[str, Any]:
    """What this process holds when all is done."""
    return {
        "kind": str(engine.world.accelerator.distributed_type),
        "stage": engine.policy.zero_optimization_stage() if engine.world.sharded else 0,
        "size": engine.world.size,
        "optimizer": optimizer_elements(engine),
        "trained": sum(p.numel() for p in engine.module().parameters() if p.requires_grad),
        "held": sum(p.numel() for p in engine.module().parameters()),
        "shards": sum(getattr(p, "ds_tensor", p).numel() for p in engine.module().parameters()),
        "frozen": sum(p.numel() for p in reference.parameters()),
        "frozen_shards": sum(getattr(p, "ds_tensor", p).numel() for p in reference.parameters()),
        "kinds": sorted({str(p.dtype) for p in engine.module().model.parameters()}),
        "masters": sorted({str(each.master.dtype) for each in engine.slices()}),
    }


def main(out: Path, first: int, last: int, sharding: str, mode: str) -> None:
    """The steps from `first` to `last`. Reads and writes `out`: checkpoints, report-<rank>.json.

    `sharding` is SHARDING[+OFFLOAD][:FROZEN]; FROZEN is whole or sharded, with -away for
    `offload_frozen`. `mode` is empty, forced (responses are the recorded ones), narrow (the trunk
    is bfloat16), or discarding (gradients are taken and left out before each update).
    """
    torch.set_num_threads(1)
    forced = mode == "forced"
    hardware = hardware_of(sharding)
    world = World(hardware, TASK.optimizer.max_grad_norm)
    actors = tiny_actors(seed=0)
    reference = actors.reference.frozen
    assert reference is not None
    if mode == "narrow":
        actors.policy.model.bfloat16()
    engine = Engine(actors.policy, TASK, world, [reference])
    updater, state = Updater(engine, TASK, seed=5), TASK.initial_state()
    checkpoints = Checkpoints(out)
    if first:
        newest = checkpoints.newest()
        assert newest is not None
        engine.load(newest)
        state = Checkpoints.progress(newest).state
    collector = Collector(world, judge, chunk=4)
    actors.policy.train()
    log: list[Any] = []
    said: dict[str, Any] = {}
    for step in range(first, last):
        prompts = make_prompts(LENGTHS, max_new=LIMITS, seed=step)
        with engine.whole():
            rollout, judgement = collector.collect(
                prompts, speaker(actors, step, out / FORCED if forced else None)
            )
        targets = TASK.targets(rollout, TASK.shape(judgement.evidence, rollout, state))
        if mode == "discarding":
            discard(engine, rollout)
        metrics = updater.update(rollout, targets, state, step)
        kl = float(masked_sum(k1(rollout.logp, rollout.ref_logp), rollout.response_mask).mean())
        tokens = [
            row[mask].tolist()
            for row, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)
        ]
        log.append(
            {**metrics, "kl/k1": kl, "score": float(judgement.scores.mean()), "tokens": tokens}
        )
        said |= {
            f"ids-{step}": rollout.response_ids,
            f"mask-{step}": rollout.response_mask,
            f"finished-{step}": rollout.finished,
        }
        state = TASK.next_state(state, {"kl/k1": kl}, len(rollout))
    checkpoints.save(engine, Progress(last, state, {}))
    if world.is_main and not mode and world.size == 1:
        save_file({name: value.contiguous() for name, value in said.items()}, out / FORCED)
    report = {**report_of(engine, reference), "log": log, "state": state}
    (out / f"report-{world.rank}.json").write_text(json.dumps(report))

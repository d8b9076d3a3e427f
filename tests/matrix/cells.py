"""The runs of the matrix: methods, how weights are trained, and hardware; and what each leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from ended import ARCHITECTURE
from forked import forked_ranks
from matrix import rank
from nursery import nursed
from tokencredit import config as configuration
from tokencredit.composing.chosen import composed
from tokencredit.config import Config
from tokencredit.pipeline.pipeline import all_stages, make
from tokencredit.pipeline.process import rank_environments, stage_environment
from tokencredit.rl.slices import Kept
from tokencredit.stages.context import Context
from tokencredit.store.jsonl import read_jsonl

RUN: Final = "run"
STEPS: Final = 10
BATCH: Final = 8
SMALL: Final = (
    "debug=tiny",
    *ARCHITECTURE,
    "model.context=192",
    "dpo.pairs=sampled",
    f"algorithm.batch_size={BATCH}",
    "algorithm.minibatches=2",
    "algorithm.optimizer.learning_rate=3e-4",
    f"algorithm.optimizer.schedule_steps={STEPS}",
    "rollout.chunk=4",
    "hardware.whole_below=0",
    "run.resume_inexact=true",
    "oracle.enabled=false",
)
ADAPTERS: Final = ("model.lora.enabled=true", "model.lora.r=4", "model.value.kind=adapter")
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "abc, all weights": ("reward_scheme=abc",),
    "abc, LoRA": ("reward_scheme=abc", *ADAPTERS),
    "rto, LoRA": ("reward_scheme=rto", *ADAPTERS),
}
"""What is trained; of "rto, LoRA" the policy, value, and DPO adapters lie on one base."""
ALONE: Final = "cpu"
HARDWARE: Final[Mapping[str, tuple[str, ...]]] = {
    "abc, all weights": (
        *("cpu_ddp2", "cpu_zero1", "cpu_zero2", "cpu_zero3", "cpu_zero3_offload"),
    ),
    "abc, LoRA": ("cpu_ddp2", "cpu_zero2", "cpu_zero3"),
    "rto, LoRA": ("cpu_ddp2", "cpu_zero2", "cpu_zero3"),
}
RESUMED: Final = (("cpu_zero3", 3), ("cpu", 7), ("cpu_zero3", STEPS))
"""Hardware, and the step up to which it goes."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run left."""

    folder: Path

    @property
    def log(self) -> list[dict[str, Any]]:
        """Metrics, step by step."""
        return read_jsonl(self.folder / RUN / "metrics.jsonl")

    @property
    def said(self) -> dict[str, torch.Tensor]:
        """All responses, by name."""
        return {k: v for path in self.folder.glob("said-*") for k, v in load_file(path).items()}

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The trained tensors at the end."""
        newest = max((self.folder / RUN / "checkpoints").glob("step-*"))
        return Kept(newest).weights()


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for the runs of the matrix, which share a store."""

    folder: Path

    def run(
        self, kind: str, parts: Sequence[tuple[str, int]], name: str, given: Path | None = None
    ) -> Ran:
        """One run, in these parts one after another, with responses where they are given."""
        out = self.folder / re.sub(r"\W+", "-", name)
        for hardware, steps in parts:
            places = (f"store={self.folder}/store", f"run_dir={out / RUN}", f"steps={steps}")
            config = composed([*SMALL, f"hardware={hardware}", *KINDS[kind], *places])
            stages = all_stages(Context(config))
            with nursed():
                make(config, stages[:-1])
            start(config, stages[-1].key, out, given)
        return Ran(out)


def start(config: Config, key: str, out: Path, given: Path | None) -> None:
    """The RL stage in as many processes as it has; raises where one fails."""
    out.mkdir(parents=True, exist_ok=True)
    count = config.hardware.processes_of("rl")
    known = stage_environment(config, "rl")
    work = partial(rank.main, out, given, "rl", key)
    text = configuration.dump(config).encode()
    for each in forked_ranks(work, rank_environments(count, known), text):
        if each.code:
            raise RuntimeError(f"{out.name}: exit code {each.code}\n{each.out}\n{each.err[-3000:]}")

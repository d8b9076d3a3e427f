"""What a run is computed on. Nothing in here may change a result beyond rounding."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from tokencredit.errors import require
from tokencredit.fields import Settings, added, number

SHARED: Final = frozenset(
    {"sft", "reward_model", "dpo", "discriminator", "advantage", "hindsight", "bradley_terry"}
)
"""Stages before RL that several processes share where DeepSpeed divides what they train."""


class Device(str, Enum):
    """Kind of processor."""

    cpu = "cpu"
    cuda = "cuda"


class Sharding(str, Enum):
    """What several processes divide among themselves."""

    none = "none"
    """Nothing: each process holds everything (distributed data parallel)."""
    zero1 = "zero1"
    """Optimizer state, by DeepSpeed ZeRO-1."""
    zero2 = "zero2"
    """Gradients and optimizer state, by DeepSpeed ZeRO-2."""
    zero3 = "zero3"
    """Weights, gradients, and optimizer state, by DeepSpeed ZeRO-3."""


class Offload(str, Enum):
    """What is kept in the memory of the CPU between its uses."""

    none = "none"
    """Nothing."""
    optimizer = "optimizer"
    """The optimizer's state, which is also stepped there."""
    parameters = "parameters"
    """That, and the shards of the weights; with zero3 alone."""


class FrozenModels(str, Enum):
    """How reference and judges lie in each process between their uses."""

    whole = "whole"
    """All of each."""
    sharded = "sharded"
    """A part of each, as under ZeRO-3; they are brought together for a rollout."""


@dataclass(slots=True, kw_only=True)
class Hardware(Settings):
    """Devices, processes, and threads; not part of any key."""

    section: ClassVar[str] = "hardware"

    name: str = "cpu"
    """Name shown in reports."""
    device: Device = Device.cpu
    """cpu or cuda."""
    threads: int = number(1, at_least=1)
    """CPU threads of the RL run and of evaluations. One and two differ in the last bits; resuming
    keeps the number."""
    stage_threads: int | None = number(None, at_least=1, null="all cores")
    """CPU threads of the stages before RL; null: all cores, divided among their processes."""

    processes: int = number(1, at_least=1)
    """Processes of the RL run on all nodes together, each with `threads` threads; under DeepSpeed,
    of the stages before it that train too."""
    sharding: Sharding = Sharding.none
    """none, zero1, zero2, or zero3."""
    offload: Offload = added(Offload.none)
    """What DeepSpeed keeps in the CPU's memory: none, optimizer, or parameters (with zero3)."""
    whole_below: int = added(number(100_000, at_least=0, note="numbers"))
    """With zero3: smaller tensors stay whole in each process."""
    frozen: FrozenModels = added(FrozenModels.whole)
    """whole, or sharded (with zero1 to zero3): reference and judges between rollouts, when every
    process has all or a part of each."""
    offload_frozen: bool = added(False)
    """Keep reference and judges, or their parts, in the CPU's memory between rollouts."""
    micro_batch: int | None = number(None, at_least=1, null="chosen by lengths", note="row")
    """Rows of one forward and backward pass in a process; null: the minibatch at once, or in
    parts of similar length where that spares padding."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    logits_memory_mb: int = number(256, at_least=1, note="MB")
    """Logits of a pass above this size are computed in chunks and recomputed in its backward."""

    def __post_init__(self) -> None:
        """Check what is kept where."""
        Settings.__post_init__(self)
        require(
            self.offload is Offload.none or self.zero_stage > 0,
            "hardware.offload",
            self.offload.value,
            "is DeepSpeed's work; set hardware.sharding=zero2 or zero3, or leave it at none",
        )
        require(
            self.offload is not Offload.parameters or self.sharding is Sharding.zero3,
            "hardware.offload",
            self.offload.value,
            "needs weights in shards; set hardware.sharding=zero3, or offload=optimizer",
        )

        require(
            self.frozen is FrozenModels.whole or self.zero_stage > 0,
            "hardware.frozen",
            self.frozen.value,
            "is DeepSpeed's work; set hardware.sharding=zero1, zero2, or zero3, or leave it at "
            "whole",
        )

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's number of what is divided; 0 without DeepSpeed."""
        return list(Sharding).index(self.sharding)

    def check(self) -> None:
        """Raise if the machine lacks what is configured."""
        import torch

        require(
            self.on_cpu() or torch.cuda.is_available(),
            "hardware.device",
            self.device.value,
            "torch finds no such device here; use hardware=cpu, or install a build of torch for it",
        )

    def has_bfloat16(self) -> bool:
        """Whether the devices multiply bfloat16; processors without it take their time."""
        import torch

        return self.on_cpu() or torch.cuda.is_bf16_supported(including_emulation=False)

    def on_cpu(self) -> bool:
        """Whether everything runs on the CPU."""
        return self.device is Device.cpu

    def arithmetic(self) -> dict[str, object]:
        """Settings that change the last bits of a run; resuming keeps them."""
        return {
            "threads": self.threads,
            "processes": self.processes,
            "sharding": self.sharding.value,
            "offload": self.offload.value,
            "micro_batch": self.micro_batch,
            "gradient_checkpointing": self.gradient_checkpointing,
            "logits_memory_mb": self.logits_memory_mb,
        }

    def stage_arithmetic(self) -> dict[str, object]:
        """Settings that change the last bits of a stage before RL; resuming keeps them."""
        return {"device": self.device.value, "stage_threads": self.threads_of("sft")}

    def processes_of(self, stage: str) -> int:
        """How many processes a stage gets: the RL run all, stages before it where DeepSpeed
        divides what they train; else, and of every other stage, there is one."""
        shared = stage in SHARED and self.zero_stage > 0
        return self.processes if stage == "rl" or shared else 1

    def threads_of(self, stage: str) -> int:
        """How many CPU threads a stage gets; evaluations as many as runs, whose bits they have."""
        if stage in {"rl", "evaluation"}:
            return self.threads
        cores = len(os.sched_getaffinity(0))
        return self.stage_threads or max(1, cores // self.processes_of(stage))

"""What a run is computed on. Nothing in here may change a result beyond rounding."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from tokencredit.errors import require


class Device(str, Enum):
    """Kind of processor."""

    cpu = "cpu"
    cuda = "cuda"


@dataclass(slots=True, kw_only=True)
class Hardware:
    """Devices and threads; not part of any key."""

    name: str = "cpu"
    """Name shown in reports."""
    device: Device = Device.cpu
    """cpu or cuda."""
    threads: int = 1
    """CPU threads of the RL run. One and two differ in the last bits; resuming keeps the number."""
    stage_threads: int | None = None
    """CPU threads of the stages before RL; null: all cores."""

    def __post_init__(self) -> None:
        """Check the counts."""
        require(self.threads >= 1, "hardware.threads", self.threads, "must be >= 1")
        require(
            self.stage_threads is None or self.stage_threads >= 1,
            "hardware.stage_threads",
            self.stage_threads,
            "must be null (all cores) or >= 1",
        )

    def check(self) -> None:
        """Raise if the machine lacks what is configured."""
        import torch

        require(
            self.on_cpu() or torch.cuda.is_available(),
            "hardware.device",
            self.device.value,
            "torch finds no such device here; use hardware=cpu, or install a build of torch for it",
        )

    def on_cpu(self) -> bool:
        """Whether everything runs on the CPU."""
        return self.device is Device.cpu

    def threads_of(self, stage: str) -> int:
        """How many CPU threads a stage gets."""
        if stage == "rl":
            return self.threads
        return self.stage_threads or len(os.sched_getaffinity(0))

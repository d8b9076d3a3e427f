"""The processes of a run: how they find each other, agree, and let DeepSpeed shard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

import accelerate
import torch

from tokencredit.hardware import Hardware, Offload, Sharding
from tokencredit.rl.zero import Dividing

T = TypeVar("T")
DEEPSPEED: Final = accelerate.utils.DistributedType.DEEPSPEED
PATIENCE: Final = timedelta(days=1)
"""How long processes of a stage wait for the one that builds it; it may wait for a lock itself."""


class World:
    """The processes of a run, and how they agree. One process is a world too."""

    def __init__(self, hardware: Hardware, max_grad_norm: float | None = None) -> None:
        """Join the processes that were started together."""
        self.hardware = hardware
        if hardware.sharding is Sharding.none:
            self.accelerator = accelerate.Accelerator(cpu=hardware.on_cpu())
        else:
            if hardware.on_cpu():
                _spare_compiling()
            # With a cpu flag, accelerate would run plain DDP without a word.
            plugin = accelerate.utils.DeepSpeedPlugin(
                hf_ds_config=deepspeed_settings(hardware, max_grad_norm)
            )
            backend = accelerate.utils.InitProcessGroupKwargs(backend=_backend(hardware))
            self.accelerator = accelerate.Accelerator(
                deepspeed_plugin=plugin, kwargs_handlers=[backend]
            )
            self.load_whole()
            check_kind(self.accelerator)
        self._check_size()

    def _check_size(self) -> None:
        if self.size != self.hardware.processes:
            raise RuntimeError(
                f"{self.hardware.processes} processes were asked for, {self.size} are here"
            )

    def load_whole(self) -> None:
        """Forget what makes transformers load every model in shards, the frozen ones too; it is
        there again after accelerate has prepared a module."""
        if self.sharded:
            self.accelerator.state.deepspeed_plugin.dschf = None

    def shards(self) -> Dividing | None:
        """What divides weights as they are read; None where each process has all of them."""
        if self.hardware.sharding is not Sharding.zero3:
            return None
        return Dividing(self.rank)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.accelerator.process_index)

    @property
    def size(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process's batches must lie."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed holds the optimizer."""
        return self.hardware.sharding is not Sharding.none

    def wait(self) -> None:
        """Return once every process has come here."""
        self.accelerator.wait_for_everyone()

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        accelerate.utils.broadcast_object_list(values)
        return values[0]

    def gather(self, values: list[T]) -> list[T]:
        """The values of all processes, in order of rank, in every process."""
        return list(accelerate.utils.gather_object(values)) if self.size > 1 else values

    def sums(self, values: dict[str, torch.Tensor | float]) -> dict[str, float]:
        """Each value summed over all processes, which must have the same names in this order."""
        column = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64).to(self.device) for v in values.values()]
        )
        if self.size > 1:
            column = self.accelerator.reduce(column, reduction="sum")
        return dict(zip(values, column.tolist(), strict=True))


class Team(World):
    """The processes of a stage before RL, whose model a borrowed trainer brings under DeepSpeed."""

    def __init__(self, hardware: Hardware) -> None:
        """Join the processes that were started together; no engine is chosen yet."""
        self.hardware = hardware
        if hardware.on_cpu():
            _spare_compiling()
        with _asking_for_deepspeed():
            self.accelerator = accelerate.PartialState(backend=_backend(hardware), timeout=PATIENCE)
        check_kind(self.accelerator)
        self._check_size()

    def arguments(self) -> dict[str, object]:
        """What a borrowed trainer is told so that it computes in these processes, under DeepSpeed.

        With a cpu flag it would run plain DDP without a word.
        """
        settings = deepspeed_settings(self.hardware, None)
        counted = "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
        settings |= dict.fromkeys((*counted, "gradient_clipping"), "auto")
        return {
            "use_cpu": False,
            "deepspeed": settings,
            "accelerator_config": {"use_configured_state": True},
        }

    def load_whole(self) -> None:
        """Forget what makes transformers load and save every model in shards."""
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()


@contextmanager
def _asking_for_deepspeed() -> Iterator[None]:
    """Let accelerate's state, of which no plugin tells it, be that of DeepSpeed."""
    name = "ACCELERATE_USE_DEEPSPEED"
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]


def _backend(hardware: Hardware) -> str:
    return "gloo" if hardware.on_cpu() else "nccl"


def check_kind(chosen: accelerate.Accelerator | accelerate.PartialState) -> None:
    """Raise unless accelerate (its accelerator, or its state) has chosen DeepSpeed."""
    kind = chosen.distributed_type
    if kind != DEEPSPEED:
        raise RuntimeError(f"DeepSpeed was asked for, but accelerate chose {kind}")


def compute_deterministically() -> None:
    """Kernels of this process that give the same bits every time, as far as torch has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that nothing wrote; filling all of it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Its backward pass sums in any order; flash attention and the plain products do not.
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def _spare_compiling() -> None:
    """Keep DeepSpeed from compiling a collective that only its inference engine calls."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_settings(hardware: Hardware, max_grad_norm: float | None) -> dict[str, Any]:
    """DeepSpeed's configuration; micro-batches are counted by `update`, not by DeepSpeed."""
    zero: dict[str, Any] = {
        "stage": hardware.zero_stage,
        "overlap_comm": not hardware.on_cpu(),
        # The default bucket is 2 GB, and is allocated anew for each backward pass.
        "reduce_bucket_size": 2**23,
        # So many numbers are stepped at once; what is stepped at once has its gradients twice.
        "sub_group_size": 2**25,
    }
    beside = {"device": "cpu", "pin_memory": not hardware.on_cpu()}
    if hardware.offload is not Offload.none:
        zero["offload_optimizer"] = beside
    if hardware.offload is Offload.parameters:
        zero["offload_param"] = beside
    if hardware.sharding is Sharding.zero3:
        zero["stage3_param_persistence_threshold"] = hardware.whole_below
        if hardware.on_cpu():  # exchanges nothing while it computes: gathering ahead saves no time
            names = "prefetch_bucket_size", "max_live_parameters", "max_reuse_distance"
            zero |= {f"stage3_{name}": 0 for name in names}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }

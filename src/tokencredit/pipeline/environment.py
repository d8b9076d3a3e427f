"""Variables of the environment that would change what a run computes, or whom it waits for.

Schedulers, containers, and launchers set them for programs that read them. Here the configuration
says how many processes there are and how they compute, and every process of a stage is started by
the command itself; a variable that torch, accelerate, or DeepSpeed would read beside it is taken
away. What a launcher has said of the place of this process is read before (`launched`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Final

from tokencredit.console import say
from tokencredit.pipeline.launched import OF_TORCHRUN, Launch

RANKS: Final = frozenset(
    {
        *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "CROSS_RANK", "ROLE_NAME"),
        *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
        *("CROSS_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS"),
        *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
        *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    }
)
ARITHMETIC: Final = frozenset(
    {
        *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "DS_ACCELERATOR"),
        *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "PYTORCH_TUNABLEOP_ENABLED"),
    }
)
FAMILIES: Final = (
    "PMI_", "PMIX_", "MPI_LOCAL", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "ACCELERATE_", "FSDP_",
    "PARALLELISM_CONFIG_", "MEGATRON_LM_",
)  # fmt: skip


def ignored(environment: Mapping[str, str]) -> list[str]:
    """The variables that are taken away, sorted."""
    return sorted(
        name
        for name in environment
        if name in RANKS or name in ARITHMETIC or name.startswith((*FAMILIES, OF_TORCHRUN))
    )


def without_ignored(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process that the command starts gets of an environment."""
    gone = set(ignored(environment))
    return {name: value for name, value in environment.items() if name not in gone}


def take_over(environment: MutableMapping[str, str], launch: Launch | None = None) -> None:
    """Take the variables away and say so in one line; of those that a `launch` was read from
    nothing, and that by its first process alone."""
    names = ignored(environment)
    for name in names:
        del environment[name]
    if launch is not None:
        names = [name for name in names if name in ARITHMETIC and launch.rank == 0]
    if not names:
        return
    say(
        f"environment: {', '.join(names)} {'is' if len(names) == 1 else 'are'} ignored; processes, "
        "devices, and precision are those of the configuration (hardware.processes=…, hardware=…, "
        "model.dtype=…)"
    )

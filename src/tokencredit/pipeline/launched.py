"""What a launcher (torchrun, accelerate, deepspeed, srun) tells each process that it starts.

Such a process is a supervisor: it trains nothing, and starts one child for each stage
(`supervisors`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokencredit.errors import UserError, require

OF_TORCHRUN: Final = "TORCHELASTIC_"
"""Only torchrun and what is built on it (accelerate launch, say) set these, for their children."""
OF_ACCELERATE: Final = "ACCELERATE_"
OF_DEEPSPEED: Final = "CROSS_SIZE"
PLACE: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a process must be told to find its place among the others."""
MEETING: Final = 100
"""Supervisors meet at the port that is this much above MASTER_PORT; stages take those between."""
UNNAMED: Final = "launcher"
"""One that has set nothing but what all set."""
FLAGS: Final = {
    "torchrun": "--nproc_per_node (on each of --nnodes)",
    "accelerate": "--num_processes",
    "deepspeed": "--num_gpus (on each of --num_nodes)",
    "srun": "--ntasks",
    UNNAMED: "number of processes",
}
"""What says how many processes each launcher starts."""
PORTS: Final = {
    "torchrun": "--master_port",
    "accelerate": "--main_process_port",
    "deepspeed": "--master_port",
}
"""What chooses its port, where that is not the variable MASTER_PORT."""
LOCAL_RANK: Final = re.compile(r"--local[-_]rank=\d+")
"""What `deepspeed` puts before the arguments of a program; the environment says it as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The place of this process among those that a launcher started together."""

    launcher: str
    """Its name, a key of `FLAGS`."""
    rank: int
    size: int
    local_rank: int
    """Number among the processes of its node."""
    local_size: int
    address: str
    """Where rank 0 is found."""
    port: int
    """MASTER_PORT; each stage of several processes has one of its own above it."""
    job: str = ""
    """What the launcher calls the job, if it has a name."""

    def __post_init__(self) -> None:
        """Check that the place is one."""
        require(
            0 <= self.rank < self.size,
            "RANK",
            self.rank,
            f"must be below the number of processes, WORLD_SIZE={self.size}; {self.remedy}",
        )
        require(
            0 < self.port <= 65535 - MEETING,
            "MASTER_PORT",
            self.port,
            f"stages take the ports above it, the last one is {MEETING} more and must be at most "
            f"65535; choose another with {self.port_flag}",
        )

    @property
    def remedy(self) -> str:
        """What to do where its environment makes no sense."""
        return (
            "let a launcher set all of them (launch/README.md), or unset them: without a launcher "
            "the command starts its own processes"
        )

    @property
    def port_flag(self) -> str:
        """What chooses the port."""
        flag = PORTS.get(self.launcher)
        return f"{flag}=…" if flag else "MASTER_PORT=…"

    @property
    def meeting(self) -> int:
        """The port at which rank 0 waits for the other supervisors."""
        return self.port + MEETING

    def place(self, count: int, port: int) -> dict[str, str]:
        """The environment of this supervisor's child in a stage of `count` processes."""
        if count == 1:
            return {}
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(min(self.local_size, count)),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
        }

    def check_size(self, processes: int) -> None:
        """Raise unless as many processes were started as the configuration asks for."""
        require(
            self.size == processes,
            "hardware.processes",
            processes,
            f"{self.launcher} started {self.size}; let its {FLAGS[self.launcher]} come to "
            f"{processes}, or set hardware.processes={self.size}",
        )


def launch_of(environment: Mapping[str, str]) -> Launch | None:
    """What a launcher has told this process; None where there is no launcher, or a single process.

    A scheduler, a container, or a shell may leave variables of the same names; they count where
    they name several processes, or where only a launcher can have set them. Raises `UserError` for
    half a launcher's environment.
    """
    told = {name: environment[name] for name in PLACE if environment.get(name)}
    own = _name(environment) != UNNAMED
    if "RANK" not in told:
        if _tasks(environment) > 1:
            return _of_slurm(environment)
        if not own and told.get("WORLD_SIZE", "1") == "1":
            return None
    _check_whole(told)
    size = _number(environment, "WORLD_SIZE")
    if size == 1 and not own:
        return None
    beside = next((n for n in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if n in environment), "WORLD_SIZE")
    return Launch(
        launcher=_name(environment),
        rank=_number(environment, "RANK"),
        size=size,
        local_rank=_number(environment, "LOCAL_RANK"),
        local_size=_number(environment, beside),
        address=told["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT"),
        job=environment.get("TORCHELASTIC_RUN_ID", ""),
    )


def _check_whole(told: Mapping[str, str]) -> None:
    missing = [name for name in PLACE if name not in told]
    if missing:
        others = ", ".join(f"{name}={value}" for name, value in told.items()) or "the launcher's"
        raise UserError(
            f"{', '.join(missing)}: missing beside {others}, half of what a launcher sets; start "
            "with torchrun, accelerate, deepspeed, or srun as launch/README.md shows, or unset the "
            "rest: without a launcher the command starts its own processes"
        )


def _name(environment: Mapping[str, str]) -> str:
    if any(name.startswith(OF_TORCHRUN) for name in environment):
        accelerate = any(name.startswith(OF_ACCELERATE) for name in environment)
        return "accelerate" if accelerate else "torchrun"
    return "deepspeed" if OF_DEEPSPEED in environment else UNNAMED


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    require(value.isdecimal(), name, value, "must be a number, as launchers set it")
    return int(value)


def _tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the step of srun that this process belongs to; 0 outside of a step.

    In a batch script the number of tasks that the job may have is set too, and nobody is beside.
    """
    if not {"SLURM_STEP_ID", "SLURM_PROCID"} <= environment.keys():
        return 0
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    return _number(environment, name) if name in environment else 0


def _of_slurm(environment: Mapping[str, str]) -> Launch:
    """The place of a task of srun. Where MASTER_ADDR and MASTER_PORT are not set, they are the
    step's first node, and a port that follows from the job's number."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job = environment.get("SLURM_JOB_ID", "0")
    local = _per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = int(environment.get("SLURM_NODEID", "0"))
    port = environment.get("MASTER_PORT") or str(20000 + 200 * (int(job) % 150))
    return Launch(
        launcher="srun",
        rank=_number(environment, "SLURM_PROCID"),
        size=_tasks(environment),
        local_rank=int(environment.get("SLURM_LOCALID", "0")),
        local_size=local[node] if node < len(local) else 1,
        address=environment.get("MASTER_ADDR") or _first_node(nodes),
        port=_number({"MASTER_PORT": port}, "MASTER_PORT"),
        job=f"{job}.{environment['SLURM_STEP_ID']}",
    )


def _first_node(nodes: str) -> str:
    """The first of SLURM's list of nodes, `gpu[03-07,9],login1` for instance."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return f"{found[1]}{found[2] or ''}{found[3] or ''}" if found else "localhost"


def _per_node(tasks: str) -> list[int]:
    """Tasks of each node, of SLURM's `8(x2),4`."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return [int(count) for count, times in found for _ in range(int(times or 1))]


def without_local_rank(arguments: list[str]) -> list[str]:
    """Arguments of a program without what `deepspeed` puts before them."""
    return arguments[1:] if arguments and LOCAL_RANK.fullmatch(arguments[0]) else arguments

"""What each launcher tells its processes, and what is refused of it."""

from __future__ import annotations

import pytest

from tokencredit.errors import UserError
from tokencredit.pipeline import environment
from tokencredit.pipeline.launched import MEETING, Launch, launch_of, without_local_rank
from tokencredit.pipeline.process import free_port, rank_environments

PLACE = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "node1"}
PLACE |= {"MASTER_PORT": "29500"}
TORCHRUN = {**PLACE, "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "7", "GROUP_RANK": "1"}
ACCELERATE = {**TORCHRUN, "ACCELERATE_MIXED_PRECISION": "no"}
DEEPSPEED = {**PLACE, "CROSS_SIZE": "2", "CROSS_RANK": "1", "LOCAL_SIZE": "4"}
STEP = {
    "SLURM_JOB_ID": "301",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}


@pytest.mark.parametrize(
    ("told", "launcher", "job"),
    [
        (TORCHRUN, "torchrun", "7"),
        (ACCELERATE, "accelerate", "7"),
        (DEEPSPEED, "deepspeed", ""),
        ({**PLACE, "LOCAL_WORLD_SIZE": "4"}, "launcher", ""),
        ({**STEP, "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, "srun", "301.0"),
        ({**STEP, "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "WORLD_SIZE": "8"}, "srun", "301.0"),
        ({**STEP, **TORCHRUN}, "torchrun", "7"),
    ],
)  # fmt: skip
def test_each_launcher_is_known(told: dict[str, str], launcher: str, job: str) -> None:
    """A place among eight processes on two nodes; variables of srun around torchrun do not count."""
    found = launch_of(told)
    assert found == Launch(
        launcher=launcher, rank=5, size=8, local_rank=1, local_size=4, address="node1", port=29500,
        job=job,
    )  # fmt: skip
    assert found.place(8, 29503) == {
        "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "node1", "MASTER_PORT": "29503",
    }  # fmt: skip
    assert found.place(1, 29503) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-04]", "gpu03"),
        ("gpu[7,9-12],login1", "gpu7"),
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("rack[2-3]-ib", "rack2-ib"),
        ("", "localhost"),
    ],
)
def test_tasks_of_srun_meet_at_the_first_node_and_a_port_of_the_job(nodes: str, first: str) -> None:
    found = launch_of({**STEP, "SLURM_STEP_NODELIST": nodes})
    other = launch_of({**STEP, "SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "302"})
    assert found is not None and other is not None
    assert found.address == first
    assert abs(found.port - other.port) > MEETING, "jobs one after another are apart"


@pytest.mark.parametrize(
    "told",
    [
        {},
        {**PLACE, "RANK": "0", "WORLD_SIZE": "1"},  # a container
        {"WORLD_SIZE": "1"},
        {"MASTER_ADDR": "node1", "LOCAL_RANK": "0"},
        {name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"},  # a batch script
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "4", "PMI_RANK": "1"},
    ],
)
def test_one_process_has_no_launcher(told: dict[str, str]) -> None:
    assert launch_of(told) is None


@pytest.mark.parametrize("own", [{"TORCHELASTIC_RUN_ID": "7"}, {"CROSS_SIZE": "1"}])
def test_a_launcher_that_started_a_single_process_is_one(own: dict[str, str]) -> None:
    found = launch_of({**PLACE, "RANK": "0", "WORLD_SIZE": "1", **own})
    assert found is not None and found.size == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WORLD_SIZE": "eight"}, "WORLD_SIZE = 'eight': must be a number"),
        ({"RANK": "8"}, "RANK = 8: must be below the number of processes, WORLD_SIZE=8"),
        ({"MASTER_PORT": "65500"}, "--master_port=…"),
        ({"MASTER_PORT": ""}, "MASTER_PORT: missing beside RANK=5"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as error:
        launch_of({**TORCHRUN, **change})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("told", "flag"),
    [
        (TORCHRUN, "--nproc_per_node"),
        (ACCELERATE, "--num_processes"),
        (DEEPSPEED, "--num_gpus"),
        (STEP, "--ntasks"),
    ],
)
@pytest.mark.parametrize("processes", [2, 16])
def test_more_or_fewer_processes_than_configured_are_refused(
    told: dict[str, str], flag: str, processes: int
) -> None:
    found = launch_of(told)
    assert found is not None
    found.check_size(8)
    with pytest.raises(UserError) as error:
        found.check_size(processes)
    said = str(error.value)
    assert f"hardware.processes = {processes}: {found.launcher} started 8" in said
    assert flag in said and "hardware.processes=8" in said


@pytest.mark.parametrize("rank", ["0", "5"])
def test_of_what_a_launcher_sets_nothing_is_said_or_left(
    rank: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What would change the arithmetic is named, by the first process alone."""
    variables = {**ACCELERATE, "RANK": rank, "NVIDIA_TF32_OVERRIDE": "1", "HF_HOME": "/x"}
    environment.take_over(variables, launch_of(variables))
    assert variables == {"HF_HOME": "/x"}
    said = capfd.readouterr().err
    assert ("NVIDIA_TF32_OVERRIDE is ignored" in said) == (rank == "0")
    assert "RANK" not in said and "ACCELERATE" not in said


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["--local_rank=1", "train", "seed=1"], ["train", "seed=1"]),
        (["--local-rank=1"], []),
        (["train", "--local_rank=1"], ["train", "--local_rank=1"]),
        ([], []),
    ],
)
def test_the_local_rank_before_all_arguments_is_dropped(given: list[str], left: list[str]) -> None:
    assert without_local_rank(given) == left


def test_environments_of_ranks() -> None:
    assert rank_environments(1, {"A": "1"}) == [{"A": "1"}]
    first, second = rank_environments(2, {"A": "1"})
    assert first["A"] == second["A"] == "1"
    assert (first["RANK"], second["RANK"], second["WORLD_SIZE"]) == ("0", "1", "2")
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert 1024 <= free_port() < 65536

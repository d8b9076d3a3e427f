"""Runs that a launcher has started: the same bytes as without, on two nodes, and how they end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tokencredit.machine.stopping import STOPPED
from tokencredit.pipeline.launched import MEETING
from tokencredit.pipeline.process import free_port

from .conftest import Run, Wait, Workplace
from .killing import is_over, lines, workers

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("launchers")]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TWO = ["hardware=cpu_zero2", "rollout.chunk=8"]
PATIENCE = 240
MINUTE = 60


def port() -> int:
    """A port for launchers, with the ports of stages and supervisors above it."""
    return free_port() - MEETING


def printed(script: str, *arguments: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that a script prints, with the tools of this environment."""
    dry = subprocess.run(
        [ROOT / "launch" / script, "--dry-run", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    *given, command = dry.stdout.splitlines()
    program, *rest = shlex.split(command)
    environment = dict(shlex.split(line)[0].split("=", 1) for line in given)
    return [str(BIN / Path(program).name), *rest], environment


class Processes:
    """Commands that were started beside each other, each in a session of its own."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.started: list[subprocess.Popen[str]] = []
        self.below: list[psutil.Process] = []

    def start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        """Start one more."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        number = len(self.started)
        with (
            (self.place.folder / f"out-{number}").open("w") as out,
            (self.place.folder / f"err-{number}").open("w") as err,
        ):
            process = subprocess.Popen(
                command,
                cwd=self.place.folder,
                env={**self.place.environment(), "PATH": path, **environment},
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def ranks(self, *arguments: str) -> None:
        """Start two supervisors, as a launcher would that does not look after them."""
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
        command = [sys.executable, "-m", "tokencredit.cli", "train", *self.place.base, *arguments]
        for rank in ("0", "1"):
            self.start(command, {**place, "RANK": rank, "LOCAL_RANK": rank})

    def said(self, number: int = 0) -> str:
        """What one of them has said to standard error."""
        return (self.place.folder / f"err-{number}").read_text(encoding="utf-8")

    def shown(self, number: int = 0) -> str:
        """What one of them has written to standard output."""
        return (self.place.folder / f"out-{number}").read_text(encoding="utf-8")

    def codes(self, seconds: float) -> list[int]:
        """Their exit codes; all must have ended within the time."""
        until = time.monotonic() + seconds
        codes = [process.wait(max(until - time.monotonic(), 0.1)) for process in self.started]
        left = [process for process in self.below if not is_over(process)]
        while left and time.monotonic() < until:
            time.sleep(0.05)
            left = [process for process in left if not is_over(process)]
        assert not left, "a child outlived its supervisor"
        return codes

    def note_children(self) -> list[psutil.Process]:
        """The processes of the present stage, of rank 0 first."""
        found = [worker for process in self.started for worker in workers(process.pid)]
        self.below += found
        return found

    def end(self) -> None:
        """End what a failing test left."""
        found = [p for process in self.started for p in _descendants(process.pid)]
        for process in (*found, *self.below):
            if not is_over(process):
                process.kill()
        for each in self.started:
            each.kill()
            each.wait()


def _descendants(process: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(process).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def processes(own: Workplace) -> Iterator[Processes]:
    """Commands in a folder of their own, with the stages of the shared store."""
    found = Processes(own)
    yield found
    found.end()


@pytest.fixture(scope="module")
def straight(shared: Workplace, first: Run) -> Run:
    """Two processes that the command has started itself."""
    folder = shared.folder / "straight"
    return Run(shared.train("steps=2", *TWO, f"run_dir={folder}").ok(), folder)


@pytest.mark.parametrize("script", ["torchrun.sh", "accelerate.sh", "deepspeed.sh"])
def test_a_launched_run_has_the_bytes_of_one_that_starts_its_own_processes(
    processes: Processes, straight: Run, script: str
) -> None:
    """By the very command that the script prints; standard output is rank 0's alone."""
    base = [*processes.place.base, "steps=2", *TWO, "run_dir=launched"]
    command, environment = printed(script, *base, MASTER_PORT=str(port()))
    processes.start(command, environment)
    assert processes.codes(PATIENCE) == [0], processes.said()
    run = Run(straight.ended, processes.place.folder / "launched")
    for name in ("metrics.jsonl", "samples.jsonl", "policy/model.safetensors"):
        assert run.bytes(name) == straight.bytes(name), name
    assert run.json("manifest.json")["arithmetic"]["processes"] == 2
    assert processes.shown().count("where things lie") == 1
    assert "Traceback" not in processes.said()


def test_two_nodes_train_sft_reward_model_and_three_steps_under_zero3(fresh: Workplace) -> None:
    """Two torchruns on the loopback interface, with an empty store."""
    processes = Processes(fresh)
    arguments = [*fresh.base, "steps=3", "hardware=cpu_zero3", "rollout.chunk=8", "run_dir=nodes"]
    known = {"NODES": "2", "MASTER_PORT": str(port()), "LOOPBACK": "1"}
    try:
        for node in ("0", "1"):
            processes.start(*printed("torchrun.sh", *arguments, NODE_RANK=node, **known))
        assert processes.codes(2 * PATIENCE) == [0, 0], processes.said(0) + processes.said(1)
    finally:
        processes.end()
    kinds = {name.partition("/")[0] for name in fresh.artifacts()}
    assert {"sft", "reward_model"} <= kinds
    run = fresh.folder / "nodes"
    assert lines(run / "metrics.jsonl") == 3
    arithmetic = json.loads((run / "manifest.json").read_text())["arithmetic"]
    assert (arithmetic["processes"], arithmetic["sharding"]) == (2, "zero3")
    assert "where things lie" in processes.shown(0) and not processes.shown(1)
    assert "running" in processes.said(0) and "running" not in processes.said(1)


@pytest.mark.parametrize("whom", ["worker", "supervisor"])
def test_one_rank_that_dies_ends_all_within_a_minute_and_is_named(
    processes: Processes, wait_until: Wait, whom: str
) -> None:
    log = processes.place.folder / "dies" / "metrics.jsonl"
    processes.ranks("steps=500", *TWO, "run_dir=dies")
    assert wait_until(lambda: lines(log) >= 2, PATIENCE), processes.said()
    _, other = processes.note_children()
    began = time.monotonic()
    if whom == "worker":
        other.kill()
    else:
        processes.started[1].kill()
    codes = processes.codes(MINUTE)
    assert time.monotonic() - began < MINUTE
    (error,) = [line for line in processes.said().splitlines() if line.startswith("error: ")]
    assert "stage rl" in error and "(rank 1 on " in error
    if whom == "worker":
        assert codes == [137, 137] and "stage rl killed" in error
    else:
        assert codes == [1, -signal.SIGKILL] and "is gone" in error


@pytest.mark.parametrize(
    ("number", "rank", "whom"),
    [(signal.SIGUSR1, 1, "supervisor"), (signal.SIGTERM, 0, "supervisor"), (signal.SIGTERM, 1, "worker")],
)  # fmt: skip
def test_a_signal_to_any_of_them_saves_and_all_end_with_75(
    processes: Processes, wait_until: Wait, number: int, rank: int, whom: str
) -> None:
    folder = processes.place.folder / "stopped"
    processes.ranks("steps=500", *TWO, "run_dir=stopped", "run.save_every=1000")
    assert wait_until(lambda: lines(folder / "metrics.jsonl") >= 2, PATIENCE), processes.said()
    children = processes.note_children()
    if whom == "worker":
        children[rank].send_signal(number)
    else:
        processes.started[rank].send_signal(number)
    assert processes.codes(MINUTE) == [STOPPED, STOPPED], processes.said(0) + processes.said(1)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{lines(folder / 'metrics.jsonl'):06d}"
    assert "is saved behind step" in processes.said(0) and not processes.said(1)

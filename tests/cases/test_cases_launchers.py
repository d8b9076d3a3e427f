"""What a launcher's environment makes of commands that are no training of several processes."""

from __future__ import annotations

import pytest

from case_machine import Place
from tokencredit.pipeline.launched import MEETING
from tokencredit.pipeline.process import free_port


@pytest.fixture
def torchrun(place: Place) -> Place:
    """What torchrun tells the only process that it starts."""
    port = str(free_port() - MEETING)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "7"}
    for name, value in {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        place.monkeypatch.setenv(name, value)
    place.monkeypatch.setattr("tokencredit.train.follow", lambda: None)  # this process has no agent
    return place


def test_case_7_a_launcher_that_started_too_few_is_refused(torchrun: Place) -> None:
    said = torchrun.plan("hardware=cpu_zero2").error()
    assert "hardware.processes = 2: torchrun started 1" in said and "--nproc_per_node" in said


def test_case_7_a_launched_plan_of_one_process_is_as_without(torchrun: Place) -> None:
    ended = torchrun.plan().ok()
    assert "misses" in ended.out and "ignored" not in ended.err


def test_case_7_a_sweep_under_a_launcher_is_refused(torchrun: Place) -> None:
    said = torchrun.train("-m", "seed=0,1").error()
    assert "--multirun" in said and "launch each" in said


@pytest.mark.parametrize("rank", ["0", "1"])
def test_case_7_other_commands_are_of_one_process(torchrun: Place, rank: str) -> None:
    """The first one says so, the others are silent."""
    torchrun.monkeypatch.setenv("WORLD_SIZE", "2")
    torchrun.monkeypatch.setenv("RANK", rank)
    ended = torchrun.command("report", "nowhere")
    assert ended.code == 2 and not ended.out
    said = "error: tokencredit report: is the work of one process, and torchrun started 2"
    assert ended.err.startswith(said) if rank == "0" else not ended.err

"""Cells beside each other take a GPU each, or wait; the number of GPUs is said, not found."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from policies import plain_config
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.hardware import Device, Hardware
from tokencredit.machine import stopping
from tokencredit.machine.stopping import Stopped
from tokencredit.pipeline import devices
from tokencredit.pipeline.devices import VISIBLE, of_own, visible
from tokencredit.settings import Run

TWO = lambda: 2  # noqa: E731


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A cell of a sweep on GPUs, with a store of its own."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.02)
    return plain_config(
        hardware=Hardware(device=Device.cuda),
        run=Run(group="sweep"),
        store=str(tmp_path / "store"),
    )


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ["0", "1"]),
        ({VISIBLE: "3"}, ["3"]),
        ({VISIBLE: "0, 5,7"}, ["0", "5", "7"]),
        ({VISIBLE: "GPU-8932f937,MIG-4a"}, ["GPU-8932f937", "MIG-4a"]),
        ({VISIBLE: ""}, []),
    ],
)
def test_devices_are_those_that_cuda_may_see(
    environment: Mapping[str, str], names: list[str]
) -> None:
    assert visible(environment, TWO) == names


def test_each_cell_takes_a_free_one_and_a_third_waits(
    cell: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    third: list[str] = []

    def wait() -> None:
        with of_own(cell, 1, TWO) as chosen:
            third.append(chosen[VISIBLE])

    waiting = threading.Thread(target=wait)
    with of_own(cell, 1, TWO) as first:
        with of_own(cell, 1, TWO) as second:
            assert [first, second] == [{VISIBLE: "0"}, {VISIBLE: "1"}]
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive() and not third
        waiting.join(10)
        assert third == ["1"]
    assert capfd.readouterr().err == "waiting for 1 of 2 GPUs, which other cells use\n"


def test_several_are_taken_together_or_not_at_all(
    cell: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for two holds none meanwhile."""
    monkeypatch.setenv(VISIBLE, "4,GPU/6")
    both: list[str] = []

    def wait() -> None:
        with of_own(cell, 2) as chosen:
            both.append(chosen[VISIBLE])

    waiting = threading.Thread(target=wait)
    with of_own(cell, 1) as first:
        assert first == {VISIBLE: "4"}
        waiting.start()
        waiting.join(0.2)
        with of_own(cell, 1) as second:
            assert second == {VISIBLE: "GPU/6"}
    waiting.join(10)
    assert both == ["4,GPU/6"]


def test_a_signal_ends_the_wait(cell: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stopping.Request()
    asked.ask("SIGTERM")
    monkeypatch.setattr(devices, "request", lambda: asked)
    with of_own(cell, 2, TWO), pytest.raises(Stopped), of_own(cell, 1, TWO):
        raise AssertionError


def test_more_processes_than_devices_are_refused(cell: Config) -> None:
    with pytest.raises(UserError, match=r"hardware\.processes = 3: .* 2 can be used here"):
        of_own(cell, 3, TWO).__enter__()


def test_runs_alone_and_on_the_cpu_take_none(cell: Config) -> None:
    def count() -> int:
        raise AssertionError("nobody asks")

    for config in (replace(cell, run=Run()), replace(cell, hardware=Hardware())):
        with of_own(config, 1, count) as chosen:
            assert chosen == {}
    assert not Path(cell.store).exists()


def test_the_driver_is_asked_for_their_number_and_torch_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch in a process of its own, for which a number stands here."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "COUNT", "print(5)")
    assert visible({}) == ["0", "1", "2", "3", "4"]
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n[ $1 = --list-gpus ] && echo 'GPU 0: A' && echo 'GPU 1: B'\n")
    driver.chmod(0o755)
    assert visible({}) == ["0", "1"]

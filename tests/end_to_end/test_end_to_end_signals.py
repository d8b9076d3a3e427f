"""Asked to stop, runs, stages, and sweeps save and say so; the same command ends as if never asked."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokencredit.machine.stopping import INTERRUPTED, STOPPED

from .conftest import STEPS, Run, Wait, Workplace
from .killing import ARGUMENTS, ask, clean_up, is_over, lines, start, workers

pytestmark = pytest.mark.slow


def stopped_line(err: str) -> str:
    """The one line that says what was saved."""
    assert "Traceback" not in err, err
    (line,) = [line for line in err.splitlines() if line.startswith("stopped: ")]
    assert line.endswith("; the same command goes on")
    return line


def test_a_run_stops_behind_its_step_whoever_is_asked_and_ends_with_the_same_bytes(
    own: Workplace, first: Run, wait_until: Wait
) -> None:
    """Never saved on its own: what is there was saved because of the signal."""
    folder = own.folder / "killed"
    log = folder / "metrics.jsonl"
    arguments = [*ARGUMENTS, "run.save_every=1000"]
    for number, whom, rows in (
        (signal.SIGTERM, "parent", 2),
        (signal.SIGUSR1, "worker", 5),
        (signal.SIGINT, "group", 8),
        (signal.SIGINT, "worker", 10),
    ):
        code, err = ask(own, wait_until, arguments, lambda n=rows: lines(log) >= n, number, whom)
        assert code == STOPPED, err
        (checkpoint,) = (folder / "checkpoints").iterdir()
        at = lines(log)
        assert rows <= at < STEPS and checkpoint.name == f"step-{at:06d}"
        assert f"is saved behind step {at} of {STEPS}" in stopped_line(err)
        assert signal.Signals(number).name in err
    last = Run(own.train(*ARGUMENTS).ok(), folder)
    for name in ("metrics.jsonl", "samples.jsonl", "policy/model.safetensors"):
        assert last.bytes(name) == first.bytes(name), name
    assert last.json("results.json")["evaluation"] == first.json("results.json")["evaluation"]


def test_a_second_ctrl_c_leaves_at_once(own: Workplace, wait_until: Wait) -> None:
    process = start(own, "steps=1", "run_dir=twice")
    try:
        assert wait_until(lambda: bool(workers(process.pid)), 120)
        below = workers(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        wait_until(lambda: False, 0.3)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == INTERRUPTED
        assert wait_until(lambda: all(map(is_over, below)), 2.0)
    finally:
        _, err = clean_up(process, [])
    assert err.splitlines()[-1] == "interrupted; the same command continues"
    assert "Traceback" not in err


@pytest.mark.parametrize("saves", ["run.save_minutes=1e-9", "run.save_minutes=null"])
def test_a_stage_that_trains_saves_as_it_does_every_ten_minutes(
    fresh: Workplace, wait_until: Wait, saves: str
) -> None:
    more = ["sft.batch_size=1", "sft.schedule=linear"]
    sft = fresh.supervised()
    begun = lambda: any(fresh.store.glob("sft/*.partial/trainer"))  # noqa: E731
    newest = lambda: [int(p.name[5:]) for p in fresh.store.glob("sft/*.saves/*/step-??????")]  # noqa: E731
    moment: Callable[[], bool] = begun if "null" in saves else lambda: bool(newest())
    code, err = ask(sft, wait_until, [*more, saves], moment, signal.SIGTERM, "parent")
    assert code == STOPPED
    if "null" in saves:
        assert not newest()
        return
    at = max(newest())
    assert f" is saved behind step {at} of " in stopped_line(err)
    sft.train(*more, saves).ok()
    uncut = replace(sft, store=fresh.folder / "uncut")
    uncut.train(*more).ok()
    manifests = [
        json.loads(path.read_text())
        for place in (sft.store, uncut.store)
        for path in place.glob("sft/*/manifest.json")
    ]
    for part in ("key", "sha256", "figures"):
        assert manifests[0][part] == manifests[1][part], part


def states(folder: Path) -> list[str]:
    """What became of the cells of the only sweep."""
    (record,) = folder.glob("runs/sweeps/*/cells.jsonl")
    assert not list(folder.glob("runs/sweeps/*/STOP"))
    return [json.loads(line)["state"] for line in record.read_text().splitlines()]


def test_a_sweep_ends_at_the_first_stopped_cell_and_names_what_remains(
    own: Workplace, wait_until: Wait
) -> None:
    more = ["-m", "seed=1,2,3", "steps=2,500"]
    moment = lambda: any(lines(log) > 2 for log in own.folder.glob("runs/abc/*/metrics.jsonl"))  # noqa: E731
    code, err = ask(own, wait_until, more, moment, signal.SIGTERM, "parent")
    assert code == STOPPED
    assert states(own.folder) == ["done", "stopped"]
    remain = "seed=1 steps=500; seed=2 steps=2; seed=2 steps=500; seed=3 steps=2; seed=3 steps=500"
    assert f"5 of 6 cells remain ({remain})" in stopped_line(err)


def test_cells_side_by_side_are_all_saved_when_one_worker_is_asked(
    own: Workplace, wait_until: Wait
) -> None:
    logs = own.folder / "runs" / "abc"
    more = ["-m", "seed=5,6,7", "steps=500", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    moment = lambda: sum(lines(log) > 1 for log in logs.glob("*/metrics.jsonl")) == 2  # noqa: E731
    code, err = ask(own, wait_until, more, moment, signal.SIGUSR1, "worker")
    assert code == STOPPED
    assert states(own.folder) == ["stopped", "stopped"]
    assert "3 of 3 cells remain (seed=5; seed=6; seed=7)" in stopped_line(err)
    for folder in logs.iterdir():
        (checkpoint,) = (folder / "checkpoints").iterdir()
        assert checkpoint.name == f"step-{lines(folder / 'metrics.jsonl'):06d}"


def test_submitit_runs_two_cells(own: Workplace, first: Run) -> None:
    """Each in a job of its own on this machine; the same bytes as one after another."""
    ended = own.train(
        "-m", "seed=0,1", f"steps={STEPS}", "run.sample_every=10", "hydra/launcher=submitit_local",
    )  # fmt: skip
    assert "2 cells, 0 failed" in ended.ok().out
    runs = [Run(ended, folder) for folder in own.folder.glob("runs/abc/*")]
    seeds = {run.json("results.json")["seeds"]["seed"]: run for run in runs}
    assert set(seeds) == {0, 1}
    assert seeds[0].bytes() == first.bytes() != seeds[1].bytes()


def test_jobs_of_submitit_end_with_a_killed_command(own: Workplace, wait_until: Wait) -> None:
    more = ["-m", "seed=5,6", "steps=500", "hydra/launcher=submitit_local"]
    process = start(own, *more)
    below = []
    try:
        logs = own.folder / "runs"
        assert wait_until(
            lambda: process.poll() is not None or any(logs.rglob("metrics.jsonl")), 180
        )
        below = workers(process.pid)
        assert below
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)  # until then it is there, though dead
        assert wait_until(lambda: all(map(is_over, below)), 5.0)
    finally:
        clean_up(process, below)

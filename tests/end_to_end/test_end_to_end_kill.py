"""Killed at any moment, the same command continues, and the result is that of a run never killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from tokencredit.machine.stopping import STOPPED

from .conftest import STEPS, Run, Wait, Workplace
from .killing import ARGUMENTS, ask, clean_up, is_over, lines, workers

pytestmark = pytest.mark.slow

DIES_WITHIN = 2.0  # seconds after its parent
ENDS = {
    "worker": (0, 0.0),
    "rank": (2, 0.05),
    "asked": (4, 0.0),
    "parent": (8, 0.1),
    "group": (10, 0.0),
}
"""Who is killed, or asked to stop: when the log has so many lines, so many seconds later."""
ENDED = {"cpu_ddp2": ("parent", "group"), "cpu_zero2": ("rank", "asked"), "cpu_zero3": (*ENDS,)}
"""Each once for two processes, and all one after another where most is divided."""


def interrupt(
    place: Workplace, wait_until: Wait, moment: Callable[[], bool], victim: str, delay: float
) -> str:
    """Start the run, kill `victim` with SIGKILL at `moment`, check what follows; what was printed."""
    process = place.start("train", *place.base, *ARGUMENTS, start_new_session=True)
    below: list[psutil.Process] = []
    try:
        assert wait_until(lambda: process.poll() is not None or moment(), 90), (
            "the moment never came"
        )
        assert process.poll() is None, process.communicate()
        wait_until(lambda: False, delay)
        below = workers(process.pid)
        assert below
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "parent":
            os.kill(process.pid, signal.SIGKILL)
        else:
            below[1 if victim == "rank" else 0].kill()
        assert wait_until(lambda: all(map(is_over, below)), DIES_WITHIN), (
            "a child outlived its parent"
        )
        process.wait(timeout=30)
    finally:
        _, err = clean_up(process, below)
    alone = victim in {"worker", "rank"} and len(below) == 1
    if victim in {"group", "parent"} or alone:
        assert process.returncode == (137 if alone else -signal.SIGKILL)
    assert process.returncode != 0
    return err


def test_field_B32_B37_killed_again_and_again_the_run_ends_as_if_nothing_had_happened(
    own: Workplace, first: Run, wait_until: Wait
) -> None:
    folder = own.folder / "killed"
    log, draw = folder / "metrics.jsonl", random.Random(32)

    def writing() -> bool:
        return lines(log) >= 6 and any((folder / "checkpoints").glob("*.partial"))

    interrupt(own, wait_until, (folder / "manifest.json").is_file, "group", 0.0)
    interrupt(own, wait_until, lambda: lines(log) >= 2, "parent", draw.uniform(0, 0.2))
    err = interrupt(own, wait_until, writing, "worker", 0.0)
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "killed" in err
    interrupt(own, wait_until, lambda: lines(log) >= 10, "group", draw.uniform(0, 0.2))
    interrupt(own, wait_until, lambda: lines(log) >= STEPS, "parent", draw.uniform(0, 0.1))
    ended = own.train(*ARGUMENTS).ok()
    last = Run(ended, folder)
    assert [row["step"] for row in last.rows()] == list(range(STEPS))
    for name in ("metrics.jsonl", "samples.jsonl", "policy/model.safetensors"):
        assert last.bytes(name) == first.bytes(name), name
    assert last.json("results.json")["evaluation"] == first.json("results.json")["evaluation"]
    assert len(last.rows("timings.jsonl")) == STEPS
    assert not list(folder.rglob("*.partial"))
    assert not list(folder.rglob("*.tmp"))


def test_child_that_is_only_starting_dies_with_its_parent(own: Workplace, wait_until: Wait) -> None:
    process = own.start("train", *own.base, "steps=1", "run_dir=early", start_new_session=True)
    below: list[psutil.Process] = []
    try:
        assert wait_until(lambda: bool(workers(process.pid)), 60)
        below = workers(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        assert wait_until(lambda: all(map(is_over, below)), DIES_WITHIN)
    finally:
        clean_up(process, below)


@pytest.mark.parametrize(
    ("number", "left", "code"), [(signal.SIGTERM, 0, STOPPED), (signal.SIGKILL, 1, -signal.SIGKILL)]
)
def test_temporary_folders_of_a_run_and_of_wandb_go_with_it(
    own: Workplace,
    wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    left: int,
    code: int,
) -> None:
    """Once the run is saved after SIGTERM; with the next command after SIGKILL."""
    place = own.folder / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    arguments = ["tracking=offline", "run_dir=ended", "steps=500"]
    process = own.start("train", *own.base, *arguments, start_new_session=True)
    below: list[psutil.Process] = []
    try:
        media = lambda: any(place.glob("tokencredit-*/*wandb-media"))  # noqa: E731
        assert wait_until(lambda: process.poll() is not None or media(), 90)
        below = workers(process.pid)
        assert below
        process.send_signal(number)
        assert process.wait(60) == code
        assert len(list(place.iterdir())) == left
        assert wait_until(lambda: all(map(is_over, below)), DIES_WITHIN)
    finally:
        clean_up(process, below)
    if left:
        own.plan(*arguments)
        assert not list(place.iterdir())


def test_everything_below_a_killed_joblib_sweep_dies(own: Workplace, wait_until: Wait) -> None:
    process = own.start(
        "train", *own.base, "-m", "seed=5,6", "steps=500", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
        start_new_session=True,
    )  # fmt: skip
    below: list[psutil.Process] = []
    try:
        logs = own.folder / "runs"
        assert wait_until(
            lambda: process.poll() is not None or any(logs.rglob("metrics.jsonl")), 120
        )
        below = workers(process.pid)
        assert below
        os.kill(process.pid, signal.SIGKILL)
        assert wait_until(lambda: all(map(is_over, below)), DIES_WITHIN)
    finally:
        clean_up(process, below)


def test_a_stage_killed_while_it_is_built_is_built_again(
    fresh: Workplace, wait_until: Wait
) -> None:
    arguments = ["train", *fresh.supervised().base]
    process = fresh.start(*arguments, start_new_session=True)
    try:
        partial = lambda: any(fresh.store.glob("*/*.partial"))  # noqa: E731
        assert wait_until(lambda: process.poll() is not None or partial(), 60)
    finally:
        clean_up(process, [])
    assert not fresh.artifacts()
    fresh.run(*arguments).ok()
    assert [name.partition("/")[0] for name in fresh.artifacts()] == ["base_model", "sft"]
    assert not list(fresh.store.rglob("*.partial"))


def test_a_stage_killed_after_two_saves_goes_on_from_the_newest(
    fresh: Workplace, wait_until: Wait
) -> None:
    """The log says from which step, the steps that are left are taken, the bytes are the same."""
    more = ["sft.batch_size=1", "sft.schedule=linear", "run.save_minutes=1e-9"]
    sft = fresh.supervised()
    process = sft.start("train", *sft.base, *more, start_new_session=True)
    newest = lambda: [int(p.name[5:]) for p in fresh.store.glob("sft/*.saves/*/step-??????")]  # noqa: E731
    try:
        assert wait_until(lambda: process.poll() is not None or max(newest(), default=0) >= 2, 90)
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        clean_up(process, [])
    at = max(newest())
    assert [name.partition("/")[0] for name in fresh.artifacts()] == ["base_model"]
    assert f"goes on at step {at}" in sft.plan(*more).out
    said = sft.train(*more).ok().err
    uncut = replace(sft, store=fresh.folder / "uncut")
    uncut.train(*more[:-1], "run.save_minutes=null").ok()
    manifests = [
        json.loads(path.read_text())
        for place in (sft.store, uncut.store)
        for path in place.glob("sft/*/manifest.json")
    ]
    for part in ("key", "sha256", "figures"):
        assert manifests[0][part] == manifests[1][part], part
    steps, key = manifests[0]["figures"]["steps"], manifests[0]["key"]
    assert 2 <= at < steps
    assert f"sft {key}: continues at step {at} of {steps}\n" in said
    assert f"sft {key}: continued at step {at}, took {steps - at} of {steps} steps\n" in said
    assert not list(fresh.store.rglob("*.saves"))


@pytest.mark.parametrize("component", ["state.json", "slices-00000.safetensors"])
def test_field_B33_a_damaged_checkpoint_is_named_and_never_half_used(
    own: Workplace, first: Run, component: str
) -> None:
    """Nothing is started anew behind the user's back; once the folder is deleted, it is."""
    folder = own.folder / "damaged"
    shutil.copytree(first.folder, folder)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    (checkpoint / component).unlink()
    more = [f"steps={STEPS + 1}", "run.sample_every=10", "run_dir=damaged"]
    said = own.train(*more).error()
    assert f"{component} is missing" in said and "delete" in said
    assert Run(own.train(*more[1:], f"steps={STEPS}").ok(), folder).bytes() == first.bytes()
    if component == "state.json":
        shutil.rmtree(folder / "checkpoints")
        again = Run(own.train(*more).ok(), folder)
        assert [row["step"] for row in again.rows()] == list(range(STEPS + 1))
        assert again.bytes().startswith(first.bytes())


@pytest.mark.parametrize("hardware", ENDED)
def test_field_B32_B40_two_processes_killed_and_continued(
    own: Workplace, wait_until: Wait, hardware: str
) -> None:
    """The result is that of a run never killed."""
    two = Workplace(own.folder, own.store, [*own.base, f"hardware={hardware}", "rollout.chunk=8"])
    folder = own.folder / "killed"
    log = folder / "metrics.jsonl"
    straight = Run(two.train(*ARGUMENTS[:-1], "run_dir=straight").ok(), own.folder / "straight")
    manifest = straight.json("manifest.json")
    assert manifest["arithmetic"]["processes"] == 2
    assert len(straight.rows()) == STEPS

    for victim in ENDED[hardware]:
        count, delay = ENDS[victim]

        def moment(count: int = count) -> bool:
            return (folder / "manifest.json").is_file() and lines(log) >= count

        if victim == "asked":
            code, err = ask(two, wait_until, ARGUMENTS, moment, signal.SIGINT, "rank")
            (checkpoint,) = (folder / "checkpoints").iterdir()
            assert (code, checkpoint.name) == (STOPPED, f"step-{lines(log):06d}"), err
        else:
            interrupt(two, wait_until, moment, victim, delay)
    last = Run(two.train(*ARGUMENTS).ok(), folder)
    for name in ("metrics.jsonl", "samples.jsonl", "policy/model.safetensors"):
        assert last.bytes(name) == straight.bytes(name), name
    assert last.json("results.json")["evaluation"] == straight.json("results.json")["evaluation"]


def test_frozen_models_in_shards_change_no_byte(own: Workplace) -> None:
    """The judge reads the attention of a reward model, of which each process has a part."""
    found = []
    for frozen in ("whole", "sharded"):
        more = ["hardware=cpu_zero3", f"hardware.frozen={frozen}", "hardware.offload_frozen=true"]
        two = Workplace(own.folder, own.store, [*own.base, *more, "rollout.chunk=8"])
        ended = two.train("steps=2", f"run_dir={frozen}").ok()
        run = Run(ended, own.folder / frozen)
        noted = run.json("manifest.json")["hardware"]  # which leaves out what is as it ever was
        assert noted.get("frozen", "whole") == frozen
        found.append([run.bytes(name) for name in ("metrics.jsonl", "samples.jsonl")])
    assert found[0] == found[1]


def test_resuming_on_other_hardware_is_refused(own: Workplace, first: Run) -> None:
    folder = own.folder / "other"
    shutil.copytree(first.folder, folder)
    more = [f"steps={STEPS + 1}", "run.sample_every=10", "run_dir=other"]
    said = own.train(*more, "hardware=cpu_ddp2").error()
    assert "hardware.processes = 2" in said and "began with 1" in said
    assert "run.resume_inexact=true" in said
    ended = own.train(*more, "hardware=cpu_zero2", "run.resume_inexact=true").ok()
    assert f"from step {STEPS} on inexact (processes 1 → 2, sharding none → zero2)" in ended.err
    again = Run(ended, folder)
    assert len(again.rows()) == STEPS + 1
    changed = {"processes": 1, "sharding": "none"}
    assert again.json("manifest.json")["inexact"] == [{"step": STEPS, "before": changed}]

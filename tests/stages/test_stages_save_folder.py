"""The folder of a stage's saves: the newest complete one, of this training alone, and then none."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stage_saves import START, saved, saves
from tokencredit.canonical import folder_sha256
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.settings import Run
from tokencredit.stages import saves as module
from tokencredit.stages.saves import Saving
from tokencredit.store import artifacts
from tokencredit.store.artifacts import Store, goes_on, seconds_before


def test_only_the_newest_is_kept_and_it_holds_all_that_the_next_step_reads(tmp_path: Path) -> None:
    before = saved(tmp_path, 3)
    (kept,) = (tmp_path / "12ab.saves").glob("*/*")
    assert kept == before.newest() and kept.name == "step-000003"
    assert not list(tmp_path.rglob("*.partial"))
    after = saves(tmp_path)
    trainer: Any = after.trainer
    assert after.attach() == str(kept)
    trainer._load_from_checkpoint(str(kept))
    assert trainer.model.weight.tolist() == [[2.0, 2.0]]
    assert not torch.equal(trainer.model.bias, before.trainer.model.bias)  # frozen, so not saved
    assert after.losses.so_far() == [0.0, 0.5, 1.0] and after.first == 3


def test_the_mean_loss_is_that_of_all_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 3)
    after = saves(tmp_path)
    trainer: Any = after.trainer
    after.attach()
    trainer.state.global_step = 3
    trainer._initial_global_step = trainer._globalstep_last_logged = 3
    after.begin()
    assert float(trainer._tr_loss) == 1.5
    assert trainer._initial_global_step == trainer._globalstep_last_logged == 0
    assert capsys.readouterr().err == "sft 12ab: continues at step 3 of 9\n"


@pytest.mark.parametrize(("steps", "again"), [(3, True), (4, False)])
def test_an_epoch_that_is_gone_on_with_has_its_order_again(
    tmp_path: Path, steps: int, again: bool
) -> None:
    """Four steps are an epoch: behind them the next order is drawn from where the generator is."""
    found = saves(tmp_path)
    trainer: Any = found.trainer
    found.attach()
    first = torch.get_rng_state()
    found.begin_epoch()
    torch.rand(5)  # what dropout draws
    for _ in range(steps):
        trainer.step(1.0)
    last = torch.get_rng_state()
    found.save()
    torch.manual_seed(99)
    after = saves(tmp_path)
    after.attach()
    after.trainer.state.global_step = steps
    after.begin_epoch()
    assert torch.equal(torch.get_rng_state(), first if again else last)


@pytest.mark.parametrize("name", ["trained.pt", "order.pt", "optimizer.pt", "state.json"])
def test_a_damaged_save_is_named_and_an_older_one_is_taken(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # killed before it
    saved(tmp_path, 2)
    (newest,) = tmp_path.rglob("step-000002")
    (newest / name).write_bytes(b"cut off")
    found = saves(tmp_path).newest()
    assert found is not None and found.name == "step-000001"
    assert capsys.readouterr().err == (
        f"sft 12ab: the save step-000002 is damaged ({name} has changed)\n"
    )


def test_where_all_are_damaged_it_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 1)
    (newest,) = tmp_path.rglob("step-000001")
    (newest / "trained.pt").unlink()
    assert saves(tmp_path).attach() is None
    assert capsys.readouterr().err.splitlines() == [
        "sft 12ab: the save step-000001 is damaged (trained.pt is missing)",
        "sft 12ab: no other save is left, so it starts over",
    ]


def test_half_a_save_is_none(tmp_path: Path) -> None:
    found = saved(tmp_path, 1)
    (found.root / "step-000002.partial").mkdir()
    newest = found.newest()
    assert newest is not None and newest.name == "step-000001"


@pytest.mark.parametrize("other", [{"seed": 2}, {"steps": 8}, {"bits": {"w": 4}}])
def test_another_training_does_not_read_it(tmp_path: Path, other: dict[str, object]) -> None:
    saved(tmp_path, 1)
    assert saves(tmp_path, {**START, **other}).attach() is None
    assert saves(tmp_path).attach() is not None


def test_another_key_has_another_folder(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(run=Run(), hardware=Hardware(stage_threads=3))
    one, two = (Saving.of(config, tmp_path / "sft" / f"{key}.partial") for key in ("aa", "bb"))
    assert (one.folder, two.folder) == (tmp_path / "sft/aa.saves", tmp_path / "sft/bb.saves")
    assert (one.what, one.minutes, one.inexact) == ("sft aa", 10.0, False)
    assert one.arithmetic == {"device": "cpu", "stage_threads": 3}


def test_other_arithmetic_is_refused_or_marked(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    other = {"device": "cpu", "stage_threads": 4}
    with pytest.raises(UserError) as caught:
        saves(tmp_path, arithmetic=other).attach()
    for part in ("hardware.stage_threads = 4", "began with 2", "run.resume_inexact=true"):
        assert part in str(caught.value)
    assert saves(tmp_path).exact
    allowed = saves(tmp_path, arithmetic=other, inexact=True)
    assert allowed.attach() is not None and not allowed.exact
    allowed.trainer.state.global_step = 2
    allowed.save()
    later = saves(tmp_path, arithmetic=other)  # the mark stays, though nothing differs any more
    assert later.attach() is not None and not later.exact


def test_a_full_disk_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saved(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(module, "write_json", full)
    found.trainer.state.global_step = 2
    found.save()
    said = capsys.readouterr().err
    assert said.startswith("sft 12ab: step-000002 is not saved: ") and "make room" in said
    assert [path.name for path in found.root.iterdir()] == ["step-000001"]


class Deed:
    """What unpickling would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("done"),)


@pytest.mark.parametrize("name", ["trained.pt", "order.pt"])
def test_a_save_runs_no_code(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, 1)
    (folder,) = tmp_path.rglob("step-000001")
    (folder / "manifest.json").unlink()
    torch.save(Deed(), folder / name)
    sums = {"schema_version": 1, "sha256": folder_sha256(folder)}
    (folder / "manifest.json").write_text(json.dumps(sums))
    after = saves(tmp_path)
    trainer: Any = after.trainer
    with pytest.raises(pickle.UnpicklingError):
        after.attach()
        trainer._load_from_checkpoint(str(folder))
    assert not (tmp_path / "done").exists()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    after = saves(tmp_path)
    trainer: Any = after.trainer
    place = after.attach()
    trainer.model = torch.nn.Linear(3, 1)
    with pytest.raises(UserError, match="holds other weights"):
        trainer._load_from_checkpoint(place)


@pytest.mark.parametrize(
    ("minutes", "expected"), [(1.0, [2, 4]), (0.5, [1, 2, 3, 4]), (2.0, [4]), (None, [])]
)
def test_saves_are_as_many_minutes_apart_as_the_setting_says(
    tmp_path: Path, minutes: float | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps take half a minute; behind the fifth and last there is nothing to go on with."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    found = saves(tmp_path, minutes=minutes)
    trainer: Any = found.trainer
    trainer.state.max_steps = 5
    found.attach()
    (callback,) = trainer.callbacks
    callback.on_train_begin(None, trainer.state, None)
    callback.on_epoch_begin(None, trainer.state, None)
    at = []
    for _ in range(5):
        now[0] += 30
        trainer.step(1.0)
        callback.on_step_end(None, trainer.state, None)
        newest = found.newest()
        if newest is not None and int(newest.name[5:]) not in at:
            at.append(int(newest.name[5:]))
    assert at == expected


class Thing:
    """Something to build that fails once."""

    name, key = "thing", "12ab"
    identity: dict[str, object] = {}  # noqa: RUF012 - nothing changes it

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes: Iterator[Exception | None] = iter(outcomes)

    def run(self, out: Path) -> dict[str, object]:
        error = next(self.outcomes)
        if error is not None:
            raise error
        (out / "result").write_text("done")
        return {}


def test_saves_outlive_a_failure_and_go_when_the_stage_is_done(tmp_path: Path) -> None:
    store, thing = Store(tmp_path), Thing(KeyboardInterrupt(), None)  # type: ignore[arg-type]
    folder = tmp_path / "thing" / "12ab.saves"
    saved(tmp_path / "thing", 3)
    with pytest.raises(KeyboardInterrupt):
        store.build(thing)
    assert list(folder.glob("*/step-000003"))
    assert store.plan(thing).state == "goes on at step 3"
    store.build(thing)
    assert not folder.exists() and store.plan(thing).state == ""
    saved(tmp_path / "thing", 1)  # as if death had come before they were removed
    store.build(thing)
    assert not folder.exists() and goes_on(folder) == ""


def test_the_seconds_of_earlier_processes_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 s until the last save, of which an earlier process spent 40 s; then 7 s more."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    folder = tmp_path / "thing"
    one = saves(folder)
    one.begin()
    now[0] = 40.0
    one.trainer.state.global_step = 1
    one.save()
    two = saves(folder)
    trainer: Any = two.trainer
    two.attach()
    trainer._initial_global_step = trainer._globalstep_last_logged = 1
    now[0] = 1000.0
    two.begin()
    now[0] = 1060.0
    trainer.state.global_step = 2
    two.save()
    assert seconds_before(folder / "12ab.saves") == 100.0
    (state,) = folder.rglob("step-000002/state.json")
    clock = iter([2000.0, 2007.0])
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: next(clock))
    made = Store(tmp_path).build(Thing(None))
    assert made.manifest["seconds"] == 107.0
    assert not state.exists()


def test_a_damaged_account_of_seconds_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 1)
    (state,) = tmp_path.rglob("state.json")
    state.write_text("{}")
    assert seconds_before(tmp_path / "12ab.saves") == 0.0
    assert "lacks seconds" in capsys.readouterr().err


def test_null_never_saves(tmp_path: Path) -> None:
    assert replace(Run(), save_minutes=None).save_minutes is None
    with pytest.raises(UserError, match=r"run\.save_minutes = 0\.0"):
        Run(save_minutes=0.0)

"""Places that cannot be written, files of the wrong kind, disks that fill up: refused, or named."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from case_machine import Place, failing, names
from forked import forked
from tokencredit.errors import UserError
from tokencredit.machine.faults import REMEDIES
from tokencredit.store import artifacts as stores
from tokencredit.store.artifacts import check_writable
from tokencredit.store.run_folder import FILES, FOLDERS, LOCK, RunFolder

Patch = pytest.MonkeyPatch


# Folders that cannot be written: the same words in plan and train


@pytest.mark.parametrize("command", ["plan", "train"])
@pytest.mark.parametrize("key", ["store", "runs_dir", "run_dir", "experiments_dir"])
def test_a_folder_that_cannot_be_written_is_refused(place: Place, command: str, key: str) -> None:
    more = ["experiment=base_model/tiny"] if key == "experiments_dir" else []
    run = getattr(place, command)
    assert "/proc cannot be written" in run(f"{key}=/proc/x", *more).error()
    (place.folder / "file").touch()
    said = run(f"{key}={place.folder / 'file' / 'x'}", *more).error()
    assert f"{key} = " in said and "is no folder" in said


@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_sweep_s_folder_that_cannot_be_written_is_refused(place: Place, command: str) -> None:
    said = getattr(place, command)("-m", "seed=0,1", "hydra.sweep.dir=/proc/x").error()
    assert said.startswith("error: hydra.sweep.dir = '/proc/x': /proc cannot be written")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_asking_whether_a_folder_can_be_written_tries_it_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: Patch, number: int
) -> None:
    check_writable(tmp_path / "deep" / "er", "store")
    assert names(tmp_path) == []
    monkeypatch.setattr(stores.tempfile, "TemporaryFile", failing(number))
    with pytest.raises(UserError, match=os.strerror(number)) as caught:
        check_writable(tmp_path, "store")
    assert REMEDIES[number] in str(caught.value)


@pytest.mark.parametrize("command", ["plan", "train"])
def test_online_tracking_without_a_key_is_refused(place: Place, command: str) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        place.monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        place.monkeypatch.setenv(name, str(place.folder / "empty"))
    said = getattr(place, command)("tracking=online").error()
    assert said.startswith("error: tracking.mode = 'online': no API key is configured")


# Files of the wrong kind


@pytest.mark.parametrize("name", [*FILES, LOCK])
def test_a_folder_in_the_place_of_a_run_s_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="a file is wanted there") as caught:
        RunFolder(tmp_path).check_kinds()
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_in_the_place_of_a_run_s_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="a folder is wanted there"):
        RunFolder(tmp_path).check_kinds()


def test_kinds_are_looked_at_in_plan_and_train(place: Place) -> None:
    keys = {
        line.split()[1]: line.split()[2]
        for line in place.plan().out.splitlines()[:-1]
        if line.startswith("miss")
    }
    (place.folder / "run" / ".lock").mkdir(parents=True)
    said = place.plan("run_dir=run").error()
    assert said == place.train("run_dir=run").error() and "run/.lock: a file is wanted" in said
    lock = place.folder / "store" / "sft" / f"{keys['sft']}.lock"
    lock.mkdir(parents=True)
    said = place.plan().error()
    assert said == place.train().error() and f"{lock}: a file is wanted there" in said
    lock.rmdir()
    lock.with_suffix("").touch()
    assert "a folder is wanted there" in place.plan().error()


SMALLEST = ["run_dir=run", "oracle.enabled=false"]  # whose weights are larger than a checkpoint


def train_within(place: Place, size: int) -> str:
    """The error of a run whose processes may write no file larger than `size`."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    full = forked(("train", *place.base, *SMALLEST), Path.cwd(), os.environ, limited)
    assert not list(place.folder.rglob("*.partial")) and not list(place.folder.rglob("*.tmp"))
    return full.error()


@pytest.mark.slow
def test_a_run_on_a_full_disk_names_it_and_goes_on_later(place: Place) -> None:
    said = train_within(place, 50_000)
    assert "file too large" in said and str(place.folder / "store" / "base_model") in said
    place.train("algorithm=sft", "oracle.enabled=false").ok()
    (weights,) = (place.folder / "store" / "sft").glob("*/model.safetensors")
    said = train_within(place, 3 * weights.stat().st_size // 2)  # one model, no checkpoint
    assert said.startswith("error: run: file too large; raise the limit on the size of files")
    assert list((place.folder / "store").glob("reward_model/*/manifest.json"))
    ended = place.train(*SMALLEST).ok()
    assert ended.err.count(": reused") == 3  # what was finished was kept

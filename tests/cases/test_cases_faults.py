"""A machine that fails: full disks, and files that may not be read or written."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

import builders
from case_machine import failing, names
from tokencredit.machine.faults import REMEDIES, fault, unreadable
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.stages.stage import Stage
from tokencredit.store import artifacts as stores
from tokencredit.store.artifacts import Store, find_damage
from tokencredit.store.files import building, naming, read_json, write_bytes, write_json, write_text
from tokencredit.store.jsonl import JsonlWriter, read_jsonl
from tokencredit.sweeps import sweep

Patch = pytest.MonkeyPatch


@contextmanager
def nearly_full(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the errors of a disk that fills up, for root too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


SEAMS = ["fsync", "replace", "open"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("seam", SEAMS)
def test_a_write_that_fails_names_its_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: Patch, seam: str, number: int
) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"step": 1})
    with monkeypatch.context() as patch:
        if seam == "fsync":
            patch.setattr(os, "fsync", failing(number))
        else:
            patch.setattr(Path, seam, failing(number))
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            write_json(path, {"step": 2})
    said = str(fault(caught.value))
    assert said.startswith(f"{path}: {os.strerror(number).lower()}; {REMEDIES[number]}")
    assert "the same command goes on" in said
    assert names(tmp_path) == ["results.json"] and read_json(path) == {"step": 1}


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []


def test_a_full_disk_under_a_real_write(tmp_path: Path) -> None:
    with nearly_full(1000), pytest.raises(OSError, match="File too large") as caught:
        write_bytes(tmp_path / "report.html", bytes(5000))
    said = str(fault(caught.value))
    assert said.startswith(f"{tmp_path / 'report.html'}: file too large") and "ulimit -f" in said
    assert names(tmp_path) == []


def test_a_log_on_a_full_disk_keeps_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    row = {"step": 0, "text": "x" * 100}
    with nearly_full(300):
        writer.write(row)
        writer.write(row)
        with pytest.raises(OSError, match="too large") as caught:
            writer.write(row)
    assert str(fault(caught.value)).startswith(str(path))
    assert read_jsonl(path) == [row, row] and writer.offset == path.stat().st_size
    writer.write(row)
    writer.close()
    assert len(read_jsonl(path)) == 3


def save_weights(path: Path) -> None:
    save_file({"w": torch.zeros(9000)}, path)


def save_state(path: Path) -> None:
    torch.save({"optimizer": torch.zeros(9000)}, path)


def save_tokenizer(path: Path) -> None:
    path.mkdir()
    builders.train_tokenizer().save_pretrained(path)


def save_model(path: Path) -> None:
    builders.tiny_causal("llama", 0).save_pretrained(path)


@pytest.mark.parametrize("save", [save_weights, save_state, save_tokenizer, save_model])
def test_what_libraries_raise_on_a_full_disk_is_named(
    tmp_path: Path, save: Callable[[Path], None]
) -> None:
    with nearly_full(1000), pytest.raises(Exception) as caught:  # noqa: PT011 - any of theirs
        save(tmp_path / "saved")
    said = fault(caught.value, tmp_path / "saved")
    assert said is not None, repr(caught.value)
    assert str(tmp_path) in str(said) and "the same command goes on" in str(said)


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), FileNotFoundError(2, "No such file", "x"), OSError("Can't load"), ValueError()],
)
def test_what_is_no_fault_of_the_machine_stays_a_bug(error: Exception) -> None:
    assert fault(error, Path("x")) is None


def test_the_fault_behind_a_library_s_error_is_found() -> None:
    behind = ValueError("cannot load")
    behind.__cause__ = PermissionError(errno.EACCES, "Permission denied", "model.safetensors")
    assert str(fault(behind)).startswith("model.safetensors: permission denied")
    assert str(fault(MemoryError(), Path("runs/x"))).startswith("runs/x: cannot allocate memory")
    locks = NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock")
    assert "locks" in str(fault(locks, Path("x")))


class Fills(Stage):
    """Writes a file of 5,000 bytes."""

    name: ClassVar[str] = "fills"
    version: ClassVar[int] = 1

    def inputs(self) -> Mapping[str, object]:
        return {}

    def run(self, out: Path) -> Mapping[str, object]:
        (out / "small.bin").write_bytes(bytes(10))
        with naming(out / "weights.bin"):
            (out / "weights.bin").write_bytes(bytes(5000))
        return {}


def test_an_artifact_on_a_full_disk_leaves_nothing_and_is_built_later(tmp_path: Path) -> None:
    store, stage = Store(tmp_path), Fills(None)  # type: ignore[arg-type]
    with nearly_full(1000), pytest.raises(OSError, match="too large"):
        store.build(stage)
    assert names(tmp_path / "fills") in ([], [f"{stage.key}.lock"])
    built = store.build(stage)
    assert find_damage(built.path) is None


def test_a_folder_that_cannot_be_published_keeps_the_old_one(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    final = tmp_path / "policy"
    final.mkdir()
    (final / "old").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with (
            pytest.raises(OSError, match="No space") as caught,
            building(tmp_path / "policy.partial", final) as partial,
        ):
            (partial / "new").touch()
    assert str(fault(caught.value)).startswith(str(final))
    assert names(tmp_path) == ["policy"] and names(final) == ["old"]


@pytest.mark.parametrize("left", ["file", "folder", "link"])
def test_what_an_earlier_attempt_left_is_replaced(tmp_path: Path, left: str) -> None:
    partial = tmp_path / "policy.partial"
    if left == "file":
        partial.touch()
    elif left == "folder":
        (partial / "sub").mkdir(parents=True)
    else:
        partial.symlink_to(tmp_path / "nowhere")
    with building(partial, tmp_path / "policy") as out:
        (out / "new").touch()
    assert names(tmp_path) == ["policy"] and names(tmp_path / "policy") == ["new"]


@pytest.mark.parametrize("when", ["weights", "state"])
def test_a_checkpoint_on_a_full_disk_keeps_the_older_one(tmp_path: Path, when: str) -> None:
    def save(folder: Path) -> None:
        (folder / "slices-00000.safetensors").write_bytes(bytes(5000 if when == "weights" else 10))

    world = SimpleNamespace(is_main=True, wait=lambda: None)
    engine: Any = SimpleNamespace(world=world, save=save, first_not_finite=lambda: None)
    checkpoints = Checkpoints(tmp_path)
    progress = Progress(next_step=7, state={}, offsets={"metrics.jsonl": 10})
    empty: Any = SimpleNamespace(world=world, save=lambda _: None, first_not_finite=lambda: None)
    checkpoints.save(empty, progress)
    later = Progress(next_step=8, state={"x" * 3000: 0.0}, offsets={})
    with nearly_full(1000), pytest.raises(OSError, match="too large") as caught:
        checkpoints.save(engine, later)
    assert str(tmp_path / "checkpoints") in str(fault(caught.value))
    assert names(tmp_path / "checkpoints") == ["step-000007"]
    assert checkpoints.newest() == tmp_path / "checkpoints" / "step-000007"
    checkpoints.save(engine, later)
    assert names(tmp_path / "checkpoints") == ["step-000008"]


def test_a_cell_of_a_sweep_that_cannot_be_noted_names_the_list(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    cell = sweep.Cell(number=0, overrides=[], state="done", folder="", seconds=1.0)
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space") as caught:
        sweep.record(tmp_path, cell)
    assert str(fault(caught.value)).startswith(str(tmp_path / "cells.jsonl"))


def test_weights_that_agree_with_their_hash_and_cannot_be_read_are_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "sft" / "model.safetensors", tmp_path / "rm" / "model.safetensors"
    for path in (good, bad):
        path.parent.mkdir()
        save_weights(path)
    whole = bad.read_bytes()
    for content in (b"", whole[:20], b"\xff" * 40, whole[:-8]):
        bad.write_bytes(content)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - SafetensorError is no class of ours
            load_file(bad)
        said = str(unreadable(caught.value, [good.parent, bad.parent]))
        assert said.startswith(f"{bad}: is no readable weights file")
        assert unreadable(KeyError("x"), [bad.parent]) is None


def test_an_artifact_that_may_not_be_read_is_not_built_anew(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    store, stage = Store(tmp_path), Fills(None)  # type: ignore[arg-type]
    store.build(stage)
    monkeypatch.setattr(stores, "folder_sha256", failing(errno.EACCES))
    with pytest.raises(PermissionError):
        store.find(stage)

"""Who may write a run's folder, and how far the run in it is."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.hardware import Hardware, Sharding
from tokencredit.store import run_folder
from tokencredit.store.artifacts import check_writable
from tokencredit.store.run_folder import RunFolder, State, git_commit

IDENTITY = {"inputs": {"seed": 0, "lam": 0.95}}


def test_a_new_folder_belongs_to_whoever_comes_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.check_owner("a" * 16, IDENTITY)
    assert run.state() is State.absent and run.rows() == 0
    with run.locked():
        run.write(State.running, key="a" * 16, identity=IDENTITY)
    run.check_owner("a" * 16, IDENTITY)
    assert run.state() is State.running


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write(State.complete, key="a" * 16, identity=IDENTITY)
    other = {"inputs": {"seed": 1, "lam": 0.95}}
    with pytest.raises(UserError) as caught:
        run.check_owner("b" * 16, other)
    said = str(caught.value)
    assert said.startswith(f"run_dir = {str(tmp_path)!r}") and "inputs.seed: 0 → 1" in said
    assert "choose another folder" in said and "lam" not in said


def test_files_that_are_no_run_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"run_dir = .*thesis\.tex.*empty folder"):
        RunFolder(tmp_path).check_owner("a" * 16, IDENTITY)


@pytest.mark.parametrize("left", [".manifest.json.123.tmp", ".config.yaml.9.tmp", ".lock"])
def test_what_a_killed_start_leaves_does_not_lock_the_owner_out(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("{")
    RunFolder(tmp_path).check_owner("a" * 16, IDENTITY)


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="run_dir"):
        check_writable(tmp_path / "file" / "run", "run_dir")


def test_done_means_complete_with_all_the_rows(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write(State.complete, key="a" * 16, identity=IDENTITY)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    assert run.done("a" * 16, 2) and run.done("a" * 16, 1)
    assert not run.done("a" * 16, 3) and not run.done("b" * 16, 2)
    run.write(State.trained)
    assert not run.done("a" * 16, 2)
    assert run.manifest()["identity"] == IDENTITY  # entries stay


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("threads", 1, 2),
        ("processes", 2, 1),
        ("micro_batch", None, 4),
        ("sharding", "none", "zero2"),
    ],
)
def test_other_arithmetic_is_refused_by_name(
    tmp_path: Path, name: str, before: object, now: object
) -> None:
    run, plain = RunFolder(tmp_path), Hardware().arithmetic()
    run.check_arithmetic({**plain, name: now}, inexact=False)  # a new run may have any
    run.write(State.running, key="a" * 16, identity=IDENTITY, arithmetic={**plain, name: before})
    with pytest.raises(UserError, match=rf"hardware\.{name} = {now}.*began with {before}"):
        run.check_arithmetic({**plain, name: now}, inexact=False)
    assert run.check_arithmetic({**plain, name: now}, inexact=True) == {name: before}
    assert run.check_arithmetic({**plain, name: before}, inexact=False) == {}


def test_a_run_from_before_offload_began_without(tmp_path: Path) -> None:
    run, plain = RunFolder(tmp_path), Hardware(sharding=Sharding.zero2).arithmetic()
    began = {name: value for name, value in plain.items() if name != "offload"}
    run.write(State.running, key="a" * 16, identity=IDENTITY, arithmetic=began)
    assert run.check_arithmetic(plain, inexact=False) == {}
    with pytest.raises(UserError, match=r"hardware\.offload = optimizer.*began with none"):
        run.check_arithmetic({**plain, "offload": "optimizer"}, inexact=False)


def test_a_run_says_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later session under other versions finishes it; what the first steps are of stays said."""

    def session(commit: str, version: str) -> None:
        monkeypatch.setattr(run_folder, "git_commit", lambda: commit)
        monkeypatch.setattr(run_folder, "environment", lambda: {"torch": version})

    run = RunFolder(tmp_path)
    session("first", "2.0")
    run.write(State.running, key="a" * 16)
    session("last", "3.0")
    run.write(State.complete)
    known = run.manifest()
    assert (known["git_commit"], known["environment"]) == ("first", {"torch": "2.0"})
    assert run.state() is State.complete


def test_a_folder_that_is_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.1)
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(UserError, match="another process is writing"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():
        pass


def hold(path: str, ready: object, release: object) -> None:
    with RunFolder(Path(path)).locked():
        ready.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_folder_in_use_is_refused_after_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.5)
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), ready, release))
    process.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(UserError, match=r"run_dir = .*another process is writing"),
            RunFolder(tmp_path).locked(),
        ):
            pass
    finally:
        release.set()
        process.join(60)
    with RunFolder(tmp_path).locked():
        pass


def test_a_copy_without_history_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENCREDIT_COMMIT", raising=False)
    known = git_commit()
    monkeypatch.setenv("TOKENCREDIT_COMMIT", "abc123")
    assert git_commit() == (known or "abc123")  # history, where there is one, knows better
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "abc123"
    monkeypatch.delenv("TOKENCREDIT_COMMIT")
    assert git_commit() is None

"""What stands in the way of a build, or beside it: leftovers, another builder, a closed folder."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from learning import start
from tokencredit.errors import UserError
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Artifact, Store, check_writable, find_damage


class Small(Stage):
    """Writes one file."""

    name: ClassVar[str] = "small"
    version: ClassVar[int] = 1
    killed: ClassVar[Path | None] = None
    """Where it was when it was killed."""

    def inputs(self) -> Mapping[str, object]:
        return {}

    def run(self, out: Path) -> Mapping[str, object]:
        (out / "result").write_text("whole")
        return {}


class Killed(Small):
    """The same stage, whose process dies before its end."""

    def run(self, out: Path) -> Mapping[str, object]:
        Small.killed = out
        raise KeyboardInterrupt


def nowhere() -> Any:
    return None


def test_what_a_killed_build_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.build(Killed(nowhere()))
    left = Small.killed
    assert left is not None
    left.mkdir(exist_ok=True)  # whatever an exception tidied up, a kill does not
    (left / "shard-7.bin").write_text("half of")
    built = store.build(Small(nowhere()))
    assert set(built.manifest["sha256"]) == {"result"}
    assert not (built.path / "shard-7.bin").exists() and find_damage(built.path) is None
    assert not left.exists()


class Slow(Small):
    """While it runs, another build of the same artifact begins."""

    runs: ClassVar[int] = 0
    entered: ClassVar[threading.Event]
    begin: ClassVar[threading.Thread]

    def run(self, out: Path) -> Mapping[str, object]:
        Slow.runs += 1
        if Slow.runs > 1:
            Slow.entered.set()
        else:
            Slow.begin.start()
            Slow.entered.wait(0.3)
        return Small.run(self, out)


def test_one_builds_an_artifact_and_others_wait_for_it(tmp_path: Path) -> None:
    store, found = Store(tmp_path), []
    Slow.runs, Slow.entered = 0, threading.Event()
    Slow.begin = threading.Thread(target=lambda: found.append(store.build(Slow(nowhere()))))
    built = store.build(Slow(nowhere()))
    Slow.begin.join(30)
    assert Slow.runs == 1
    assert [artifact.manifest for artifact in found] == [built.manifest]
    assert isinstance(found[0], Artifact) and found[0].path == built.path


def test_a_folder_that_may_not_be_written_is_refused_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may write everywhere: what the system answers, asked or tried, is
    made up."""
    access, opened = os.access, os.open

    def asked(path: Any, mode: int, **options: Any) -> bool:
        return (Path(path) != tmp_path or not mode & os.W_OK) and access(path, mode, **options)

    def tried(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if tmp_path in (Path(path), Path(path).parent) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *rest, **options)

    check_writable(tmp_path / "new" / "run", "run_dir")
    monkeypatch.setattr(os, "access", asked)
    monkeypatch.setattr(os, "open", tried)
    for folder in (tmp_path, tmp_path / "new" / "run"):
        with pytest.raises(UserError, match=r"^run_dir = "):
            check_writable(folder, "run_dir")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_stays_until_the_next_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing that can fail is the rename; the older one must be there still."""
    _, updater = start()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(updater.engine, Progress(1, {"kl/coef": 0.3}, {}))

    def failing(name: str) -> Any:
        own = getattr(os, name)

        def act(source: Any, target: Any, **options: Any) -> None:
            if Path(target).parent == checkpoints.root:
                raise OSError(28, "No space left on device")
            own(source, target, **options)

        return act

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, failing(name))
        with pytest.raises((OSError, UserError)):
            checkpoints.save(updater.engine, Progress(2, {"kl/coef": 0.3}, {}))
    newest = checkpoints.newest()
    assert newest is not None and Checkpoints.progress(newest).next_step == 1
    checkpoints.save(updater.engine, Progress(2, {"kl/coef": 0.3}, {}))
    newest = checkpoints.newest()
    assert newest is not None and Checkpoints.progress(newest).next_step == 2

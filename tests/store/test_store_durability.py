"""What is on disk when a name appears there: each file flushed before, its folder after."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokencredit.store.files import publish, write_text

RENAMED = "renamed"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """The inode of all that is flushed, and `RENAMED`, in order; everything happens too."""
    seen: list[int | str] = []

    def recorded(own: Callable[..., Any], event: Callable[[Any], int | str]) -> Callable[..., Any]:
        def act(*given: Any, **named: Any) -> Any:
            done = own(*given, **named)
            seen.append(event(given[0]))
            return done

        return act

    monkeypatch.setattr(os, "fsync", recorded(os.fsync, lambda file: os.fstat(file).st_ino))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, recorded(getattr(os, name), lambda _: RENAMED))
    return seen


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_written_file_is_flushed_before_its_rename_and_the_folder_after(
    tmp_path: Path, events: list[int | str]
) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "one")
    where = events.index(RENAMED)
    assert events.count(RENAMED) == 1
    assert inode(target) in events[:where] and inode(tmp_path) in events[where:]


def test_a_published_folder_is_flushed_before_its_rename_and_the_one_above_after(
    tmp_path: Path, events: list[int | str]
) -> None:
    partial, final = tmp_path / "final.partial", tmp_path / "final"
    (partial / "sub").mkdir(parents=True)
    for name in ("weights", "sub/more"):
        (partial / name).write_text(name)
    publish(partial, final)
    where = events.index(RENAMED)
    assert {inode(final / "weights"), inode(final / "sub" / "more")} <= set(events[:where])
    assert inode(tmp_path) in events[where:]


OTHER = "import sys; from pathlib import Path; from tokencredit.store.files import write_text\n"
OTHER += "write_text(Path(sys.argv[1]), 'of the other process')"


def test_two_processes_that_write_one_file_do_not_write_into_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes the whole of the same file while this one is in the middle of it."""
    target, own, met = tmp_path / "a.json", os.fsync, []

    def meeting(file: int) -> None:
        if not met:
            met.append(subprocess.run([sys.executable, "-c", OTHER, str(target)], check=True))
            assert target.read_text() == "of the other process"
        own(file)

    monkeypatch.setattr(os, "fsync", meeting)
    write_text(target, "of this process")
    assert met and target.read_text() == "of this process"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

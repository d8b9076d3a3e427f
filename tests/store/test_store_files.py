"""Files and folders that exist complete or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tokencredit.store.files import publish, read_json, remove_abandoned, write_json, write_text


def test_text_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "one")
    write_text(target, "zwölf 🎬")
    assert target.read_text(encoding="utf-8") == "zwölf 🎬"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failing_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"step": 1})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(target, {"step": 2})
    assert read_json(target) == {"step": 1}


def test_threads_that_write_one_file_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_json(path, {"number": number}), range(400)))
    assert 0 <= read_json(path)["number"] < 400
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_json_refuses_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_folder_is_published_in_place_of_an_older_one(tmp_path: Path) -> None:
    final, partial = tmp_path / "final", tmp_path / "final.partial"
    for folder, name in ((final, "old"), (partial, "new")):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / name).write_text(name)
    publish(partial, final)
    assert not partial.exists()
    assert [path.name for path in (final / "sub").iterdir()] == ["new"]


def test_what_a_killed_writer_left_is_removed_and_a_live_ones_is_not(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    gone, live = (tmp_path / f".a.json.{pid}.tmp" for pid in (int(ended.stdout), os.getpid()))
    others = [tmp_path / name for name in (".b.tmp", f".c.{10**20}.tmp", "a.json")]
    for path in (gone, live, *others):
        path.write_text("{}")
    remove_abandoned(tmp_path)
    assert not gone.exists() and set(tmp_path.iterdir()) == {live, *others}

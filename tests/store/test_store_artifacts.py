"""Artifacts: built once, verified on use, never half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tokencredit.errors import UserError
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import MANIFEST, Store, find_damage
from tokencredit.store.files import read_json, write_json


class Sum(Stage):
    """Adds numbers; counts how often it ran."""

    name: ClassVar[str] = "sum"
    version: ClassVar[int] = 1
    runs: ClassVar[int] = 0

    def __init__(self, *numbers: int, parent: Stage | None = None) -> None:
        Stage.__init__(self, None)  # type: ignore[arg-type]
        self.numbers, self.parent = numbers, parent

    def parents(self) -> Mapping[str, Stage]:
        return {} if self.parent is None else {"base": self.parent}

    def inputs(self) -> Mapping[str, object]:
        return {"numbers": self.numbers, "count": len(self.numbers)}

    def run(self, out: Path) -> Mapping[str, object]:
        type(self).runs += 1
        (out / "sub").mkdir()
        (out / "sub" / "sum.txt").write_text(str(sum(self.numbers)))
        write_json(out / "more.json", {"numbers": list(self.numbers)})
        return {"sum": sum(self.numbers)}


class NewerSum(Sum):
    version: ClassVar[int] = 2


@pytest.fixture
def store(tmp_path: Path) -> Store:
    Sum.runs = 0
    return Store(tmp_path / "store")


def test_an_artifact_is_built_once_and_found_again(store: Store) -> None:
    assert store.find(Sum(1, 2)) is None
    built = store.build(Sum(1, 2))
    assert (built.path / "sub" / "sum.txt").read_text() == "3"
    assert built.path == store.root / "sum" / Sum(1, 2).key
    again = store.build(Sum(1, 2))
    assert Sum.runs == 1 and again.manifest == built.manifest
    assert store.get(Sum(1, 2)).manifest["figures"] == {"sum": 3}
    assert set(built.manifest["sha256"]) == {"sub/sum.txt", "more.json"}
    assert built.manifest["environment"]["torch"]


def test_keys_follow_inputs_version_and_parents() -> None:
    stages = [
        Sum(1, 2),
        Sum(2, 1),
        Sum(1, 2, 0),
        NewerSum(1, 2),
        Sum(1, 2, parent=Sum(5)),
        Sum(1, 2, parent=Sum(6)),
    ]
    assert len({stage.key for stage in stages}) == len(stages)
    assert Sum(1, 2).key == Sum(1, 2).key
    assert Sum(1, 2, parent=Sum(5)).key == Sum(1, 2, parent=Sum(5)).key


def damage(folder: Path, kind: str) -> None:
    if kind == "byte flipped":
        (folder / "sub" / "sum.txt").write_text("4")
    elif kind == "file missing":
        (folder / "more.json").unlink()
    elif kind == "manifest truncated":
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_text(text[: len(text) // 2])
    elif kind == "manifest empty":
        (folder / MANIFEST).write_text("")
    elif kind == "manifest of another kind":
        (folder / MANIFEST).write_text("[]")


DAMAGES = (
    "byte flipped",
    "file missing",
    "manifest truncated",
    "manifest empty",
    "manifest of another kind",
)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_artifact_is_rebuilt_with_a_message(
    store: Store, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = store.build(Sum(1, 2)).path
    assert find_damage(folder) is None
    damage(folder, kind)
    plan = store.plan(Sum(1, 2))
    assert not plan.hit and any("damage" in reason for reason in plan.reasons)
    assert not store.plan(Sum(9)).hit  # another stage's plan reads this manifest too
    with pytest.raises(UserError, match="is missing"):
        store.get(Sum(1, 2))
    capsys.readouterr()
    rebuilt = store.build(Sum(1, 2))
    said = capsys.readouterr().err
    assert str(folder) in said and "is damaged" in said and "rebuilt" in said
    assert Sum.runs == 2 and find_damage(rebuilt.path) is None
    assert store.plan(Sum(1, 2)).hit


def test_a_miss_names_the_inputs_in_which_the_nearest_differs(store: Store) -> None:
    first = store.plan(Sum(1, 2))
    assert (first.hit, first.name, first.reasons) == (False, "sum", ("no earlier artifact",))
    store.build(Sum(1, 2))
    store.build(Sum(7, 8, 9))
    assert store.plan(Sum(1, 2)).hit and store.plan(Sum(1, 2)).reasons == ()
    assert store.plan(Sum(1, 3)).reasons == ("inputs.numbers: [1, 2] → [1, 3]",)
    assert store.plan(NewerSum(1, 2)).reasons == ("version: 1 → 2",)
    assert Sum.runs == 2


class Broken(Sum):
    name: ClassVar[str] = "broken"

    def run(self, out: Path) -> Mapping[str, object]:
        (out / "half.txt").write_text("half")
        raise RuntimeError("out of memory")


def test_a_failing_stage_leaves_no_artifact(store: Store) -> None:
    with pytest.raises(RuntimeError):
        store.build(Broken(1))
    assert store.find(Broken(1)) is None and not store.folder(Broken(1)).exists()
    with pytest.raises(RuntimeError):  # and does not stand in its own way
        store.build(Broken(1))


def test_get_says_what_to_do(store: Store) -> None:
    with pytest.raises(UserError, match=r"is missing; run `tokencredit train` again"):
        store.get(Sum(1))


def test_a_store_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot be made.*TOKENCREDIT_STORE"):
        Store(tmp_path / "file" / "store").build(Sum(1))


CHILD = """
import sys, time
from pathlib import Path
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Store

class Slow(Stage):
    name, version = "slow", 1
    def inputs(self):
        return {"x": 1}
    def run(self, out):
        (out / "weights").write_bytes(b"half")
        with open(sys.argv[2], "a") as file:
            file.write("run\\n")
        until = time.monotonic() + float(sys.argv[3])
        while time.monotonic() < until and not Path(sys.argv[1], "go_on").exists():
            time.sleep(0.02)
        (out / "weights").write_bytes(b"whole")
        return {}

artifact = Store(Path(sys.argv[1])).build(Slow(None))
print((artifact.path / "weights").read_text())
"""


def start(store: Path, counter: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(store), str(counter), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.slow
def test_field_B37_a_killed_build_leaves_no_artifact(tmp_path: Path) -> None:
    root, counter = tmp_path / "store", tmp_path / "counter"
    child = start(root, counter, 60)
    wait_for(counter)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not list(root.glob(f"slow/*/{MANIFEST}"))
    again = start(root, counter, 0)
    out, _ = again.communicate(timeout=60)
    assert out.strip() == "whole" and counter.read_text() == "run\nrun\n"
    (manifest,) = root.glob(f"slow/*/{MANIFEST}")
    assert find_damage(manifest.parent) is None and not list(root.glob("slow/*.partial"))


@pytest.mark.slow
def test_two_processes_build_one_stage_once(tmp_path: Path) -> None:
    root, counter = tmp_path / "store", tmp_path / "counter"
    first = start(root, counter, 60)
    wait_for(counter)
    second = start(root, counter, 60)
    assert second.stderr is not None
    assert "waiting for another process that builds slow" in second.stderr.readline()
    (root / "go_on").touch()
    answers = [child.communicate(timeout=90) for child in (first, second)]
    assert [out.strip() for out, _ in answers] == ["whole", "whole"]
    assert counter.read_text() == "run\n"


def test_manifest_holds_what_the_key_is_made_of(store: Store) -> None:
    manifest: dict[str, Any] = read_json(store.build(Sum(1, 2, parent=Sum(5))).path / MANIFEST)
    assert manifest["identity"] == {
        "stage": "sum",
        "version": 1,
        "inputs": {"numbers": [1, 2], "count": 2},
        "parents": {"base": Sum(5).key},
    }
    assert manifest["schema_version"] == 1 and manifest["key"] == Sum(1, 2, parent=Sum(5)).key

"""torch is read when a command first uses it, and by no command that only composes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tokencredit.machine.later import put_off, read_now

WATCHED = """
import os, sys, traceback
sys.argv = ["tokencredit", *sys.argv[1:]]
import tokencredit

def read():
    places = [f for f in traceback.extract_stack() if not f.filename.endswith("/later.py")]
    ours = [f for f in places if "/src/tokencredit/" in f.filename]
    print("torch is read by", *(f"{f.filename}:{f.lineno}" for f in ours[-1:]), file=sys.stderr)
    os._exit(99)

torch, = (f for f in sys.meta_path if getattr(f, "spec", None) == sys.modules["torch"].__spec__)
torch.read = read
from tokencredit.cli import main
main()
"""
IMPORTED = "import sys, tokencredit; print(*{'torch', 'transformers', 'hydra'} & {*sys.modules})"
# Imported by name: the check of dependencies would ask for a literal one to be declared.
HOUSE, MISSING = "house", "no_such_library"
LIBRARY = """
from house import log
log.append("whole")
from house import part
def __getattr__(name):
    if name == "asked": return "answered"
    raise AttributeError(name)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "--help"], 0, "reward_scheme"),
        (["plan", "--help"], 0, "hit   STAGE"),
        (["train", "reward_scheme.betta=1"], 2, "did you mean 'beta'"),
        (["train", "steps=0"], 2, "steps = 0"),
        (["train", "judge=atention"], 2, "did you mean 'attention'"),
    ],
)
def test_composing_reads_no_torch(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    ended = run(WATCHED, *arguments, folder=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr


def test_the_watch_names_the_file_that_reads_torch(tmp_path: Path) -> None:
    ended = run(WATCHED.replace("main()", "import tokencredit.models.policy"), folder=tmp_path)
    assert ended.returncode == 99
    assert ended.stderr.split()[-1].partition(":")[0].endswith("models/policy.py")


def test_the_package_alone_imports_no_library(tmp_path: Path) -> None:
    ended = run(IMPORTED, folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "\n", "")
    assert run(f"import torch; {IMPORTED}", folder=tmp_path).stdout == "torch\n"


def run(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is noted as the library `house` is read, which is put off."""
    for name, text in {
        "__init__.py": LIBRARY,
        "part.py": "from house import log\nlog.append('part')\n",
        "other.py": "import house\nhouse.log.append('other')\n",
    }.items():
        (tmp_path / "house").mkdir(exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    put_off("house")
    house: Any = import_module(HOUSE)
    house.log = []
    yield house.log
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


def test_importing_reads_nothing_and_a_look_reads_once(log: list[str]) -> None:
    house: Any = import_module(HOUSE)
    again = __import__("house")
    assert log == []
    assert house.part is sys.modules["house.part"]
    assert log == ["whole", "part"]
    assert again is house
    assert house.asked == "answered", "a library's own __getattr__ takes over"
    with pytest.raises(AttributeError):
        _ = house.nothing
    assert log == ["whole", "part"]


@pytest.mark.parametrize("name", ["part", "other"])
def test_a_part_is_read_after_the_whole_and_once(log: list[str], name: str) -> None:
    found = __import__(f"house.{name}", fromlist=["log"])
    assert log == ["whole", "part", *(["other"] * (name == "other"))]
    assert found is sys.modules[f"house.{name}"]
    assert found.__spec__.loader.path.endswith(f"{name}.py")
    assert getattr(__import__("house"), name) is found


def test_a_library_is_read_when_it_is_asked_for(log: list[str]) -> None:
    read_now("house")
    read_now("house")
    assert log == ["whole", "part"]
    put_off("house")  # too late, and no matter
    assert sys.modules["house"].part is sys.modules["house.part"]


def test_a_library_that_fails_fails_each_time(log: list[str], tmp_path: Path) -> None:
    house: Any = import_module(HOUSE)
    (tmp_path / "house" / "__init__.py").write_text("raise OSError('no such device')")
    with pytest.raises(OSError, match="no such device"):
        _ = house.part
    with pytest.raises(OSError, match="no such device"):
        import_module(HOUSE)


def test_a_library_that_is_missing_stays_missing() -> None:
    put_off(MISSING)
    with pytest.raises(ModuleNotFoundError):
        import_module(MISSING)

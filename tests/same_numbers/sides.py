"""One side of the comparison: a tree of the package, and commands that see nothing but it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from same_numbers.compare import TIMED, hashes

WITNESS: Final = Path(__file__).parent / "witness"
KEPT_FROM_OUTSIDE: Final = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
TRACES: Final = 3000
"""Characters of a failed command's last words that are shown."""


class Wrong(Exception):
    """A command that did not do what it must do on both sides."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a command printed, and the files it made or changed, by hash."""

    code: int
    out: str
    err: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Side:
    """A tree (`src`, `conf`, `experiments`), and the folder in which its commands run."""

    name: str
    tree: Path
    root: Path

    def environment(self) -> dict[str, str]:
        """Variables of this side's commands; nothing of the user's but where programs lie."""
        home = self.root / "home"
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        outside = {name: os.environ[name] for name in KEPT_FROM_OUTSIDE if name in os.environ}
        places = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCH_HOME")
        places += ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "WANDB_DIR")
        return {
            **outside,
            **dict.fromkeys(places, str(home)),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(WITNESS), str(self.tree / "src")]),
            "SAME_NUMBERS_WITNESS": str(self.witness),
            "TOKENCREDIT_STORE": "store",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
        }

    @property
    def witness(self) -> Path:
        """Where every process notes which package it used."""
        return self.root / "witness.txt"

    def python(self, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a folder."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=place,
            env=self.environment(),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def run(self, place: Path, *arguments: str) -> Told:
        """Run `tokencredit ARGUMENTS` in a folder, and note what became of it."""
        before = hashes(place)
        ended = self.python(place, "-m", "tokencredit.cli", *arguments)
        files = {
            name: value
            for name, value in hashes(place).items()
            if before.get(name) != value and Path(name).name not in {*TIMED, ".lock"}
        }
        return Told(ended.returncode, ended.stdout, ended.stderr, files)

    def ok(self, place: Path, *arguments: str) -> Told:
        """As `run`, for a command that must succeed."""
        told = self.run(place, *arguments)
        if told.code != 0:
            command = " ".join(arguments)
            raise Wrong(f"{self.name}: {command}\n{told.out[-TRACES:]}\n{told.err[-TRACES:]}")
        return told

    def strangers(self) -> list[str]:
        """What processes used another package than this side's; one line for workers that are none."""
        text = self.witness.read_text(encoding="utf-8") if self.witness.is_file() else ""
        lines = text.splitlines()
        workers = [line for line in lines if not line.startswith("-m tokencredit.cli")]
        source = str(self.tree / "src" / "tokencredit")
        found = [line for line in lines if not line.partition("\t")[2].startswith(source)]
        return found or ([] if workers else ["no worker of a stage was seen"])


def check_fresh(told: Told, name: str) -> None:
    """Raise if a stage was not computed in this very command."""
    said = re.findall(r"^(?:.* )?(\S+ [0-9a-f]{16}): (.*)$", told.err + told.out, re.MULTILINE)
    stale = [f"{stage}: {what}" for stage, what in said if what.startswith(("reused", "complete"))]
    if stale:
        raise Wrong(f"{name}: {'; '.join(stale)}: nothing may come from anywhere else")
    if not any(what == "running" for _, what in said):
        raise Wrong(f"{name}: no stage says that it is running\n{told.err[-TRACES:]}")


def extract(commit: str, repository: Path, folder: Path) -> None:
    """The files of a commit, without touching the repository or its working tree."""
    folder.mkdir(parents=True)
    packed = subprocess.Popen(
        ["git", "-C", str(repository), "archive", commit], stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], stdin=packed.stdout, check=True)
    if packed.wait() != 0:
        raise Wrong(f"git archive {commit} failed")


def copied(source: Path, target: Path, *, begin: bool = True) -> Path:
    """A copy of a place for a command that may write into it."""
    if begin and target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def written(path: Path, told: Told) -> None:
    """Keep what a command said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(told), ensure_ascii=False), encoding="utf-8")


def read(path: Path) -> Told:
    """What `written` kept."""
    return Told(**json.loads(path.read_text(encoding="utf-8")))

"""`tokencredit …` in the test's own process, or in one of its own with another environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from case_data import SHORT, review, write_jsonl
from ended import ARCHITECTURE, Ended
from nursery import nursed

DEEP = b'{"a": ' * 3000 + b"1" + b"}" * 3000
"""JSON that is nested more deeply than Python can walk."""
SMALL = [*ARCHITECTURE, "evaluation.prompts=4"]


@dataclass(frozen=True)
class Place:
    """A folder with a small data set, in which commands run."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    @property
    def base(self) -> list[str]:
        """Overrides of a small run."""
        path = self.folder / "reviews.jsonl"
        if not path.exists():
            write_jsonl(path, (review(number, 50) for number in range(200)))
        return ["dataset=file", f"dataset.path={path}", *SMALL, *SHORT]

    def command(self, *arguments: str) -> Ended:
        """`tokencredit ARGUMENTS` in this process."""
        from hydra.core.global_hydra import GlobalHydra

        from tokencredit import cli
        from tokencredit.sweeps import sweep

        GlobalHydra.instance().clear()
        self.monkeypatch.setattr(sweep, "FOLDERS", [])
        self.monkeypatch.setattr(sys, "argv", ["tokencredit", *arguments])
        self.capfd.readouterr()
        code: object = 0
        try:
            with nursed():
                cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = self.capfd.readouterr()
        return Ended(int(str(code or 0)), captured.out, captured.err)

    def plan(self, *arguments: str) -> Ended:
        """`tokencredit plan` of a small run, in this process."""
        return self.command("plan", *self.base, *arguments)

    def train(self, *arguments: str) -> Ended:
        """`tokencredit train` of a small run, in this process and those of its stages."""
        return self.command("train", *self.base, *arguments)


def own_process(folder: Path, *arguments: str, **environment: str) -> Ended:
    """`tokencredit ARGUMENTS` in a process of its own; what it prints is read as bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "tokencredit.cli", *arguments],
        cwd=folder,
        env=clean(os.environ) | {"TOKENCREDIT_STORE": str(folder / "store")} | environment,
        capture_output=True,
        check=False,
        timeout=300,
    )
    return Ended(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without settings of its own for encodings."""
    gone = {"PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "LC_ALL", "LANG"}
    return {name: value for name, value in environment.items() if name not in gone}


def failing(number: int) -> Callable[..., Any]:
    """A function of the operating system that fails, without naming a file."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())

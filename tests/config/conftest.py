"""Running the entry point inside the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from ended import Ended
from tokencredit import train
from tokencredit.sweeps import sweep

Command = Callable[..., Ended]


@pytest.fixture
def entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Command]:
    """`tokencredit train ARGS`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("TOKENCREDIT_STORE", raising=False)
    monkeypatch.setattr(sweep, "FOLDERS", [])

    def run(*arguments: str) -> Ended:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["tokencredit train", *arguments])
        code = 0
        try:
            train.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    yield run
    GlobalHydra.instance().clear()

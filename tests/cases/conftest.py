"""A place to run commands in."""

from __future__ import annotations

from pathlib import Path

import pytest

from case_machine import Place
from judge_server import answer_files, serve

__all__ = ["answer_files", "serve"]


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Place:
    """An empty folder to run commands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENCREDIT_STORE", str(tmp_path / "store"))
    return Place(tmp_path, monkeypatch, capfd)

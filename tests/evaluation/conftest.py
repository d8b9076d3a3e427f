"""Judges on the loopback, their key in the environment, and answers to be judged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import compared_runs
from judge_server import answer_files, serve

__all__ = ["answer_files", "serve"]


@pytest.fixture
def annotations() -> Path:
    """The folder of real GPT-4 verdicts."""
    root = Path(os.environ.get("TOKENCREDIT_DATA", "../shared/data"))
    folder = root / "pairwise_annotations"
    if not folder.is_dir():
        pytest.skip(f"TOKENCREDIT_DATA = {root}: holds no pairwise_annotations")
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a store with an oracle, two runs of it, and an SFT model."""
    return compared_runs.write(tmp_path_factory.mktemp("compared"))

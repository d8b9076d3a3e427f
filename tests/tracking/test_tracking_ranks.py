"""A run on two processes is one run at W&B, also where it goes on in another layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tracking_ranks")]


def train(folder: Path, *choices: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tokencredit.train",
        "debug=tiny",
        "tracking=online",
        "tracking.timeout_seconds=60",
        *choices,
    ]
    small = ["rollout.chunk=4", "algorithm.batch_size=8", "algorithm.minibatches=2"]
    place = [f"run_dir={folder}/run", f"store={folder}/store"]
    done = subprocess.run(
        [*command, *small, *place], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_and_a_resume_in_one_are_one_run(tmp_path: Path, serve: Any) -> None:
    server = serve("works")
    train(tmp_path, "hardware=cpu_zero2", "steps=2")
    assert [row["_step"] for row in server.rows if "score/mean" in row] == [0, 1]
    server.logged_steps = 2  # what it answers when it is asked how far the run is
    train(tmp_path, "hardware=cpu", "steps=4", "run.resume_inexact=true")
    assert [row["_step"] for row in server.rows if "score/mean" in row] == [0, 1, 2, 3]
    assert len(set(server.runs)) == 1

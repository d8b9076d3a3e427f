"""Cells of an experiment are kept as they finish, by several processes, and are not run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ended import Ended

from .conftest import Workplace

pytestmark = pytest.mark.slow

NAME = "abc/positive_generation"
SWEEP = [
    "-m", f"experiment={NAME}", "scale=cpu", "method=sparse", "stage_seed=0", "steps=2",
    "experiments_dir=experiments",
]  # fmt: skip
SIDE_BY_SIDE = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def states(place: Workplace) -> list[str]:
    """States of the cells of the last sweep."""
    record = max(place.folder.glob("runs/sweeps/*/cells.jsonl"))
    return [json.loads(line)["state"] for line in record.read_text().splitlines()]


def test_cells_are_kept_and_count_as_done_for_their_experiment(own: Workplace) -> None:
    ended: Ended = own.train(*SWEEP, "seed=0,1", *SIDE_BY_SIDE).ok()
    assert "2 cells, 0 failed" in ended.out
    folder = own.folder / "experiments" / NAME
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(Path(name).suffix for name in kept) == [".csv", ".csv", ".json", ".json"]
    record = json.loads(next(path.read_text() for path in folder.glob("*.json")))
    assert record["experiment"] == NAME and record["provenance"]["parents"]["sft"]["sha256"]
    spent = record["provenance"]["spent"]
    assert spent["judge_calls"] == record["scored_samples"], "one pass rates and judges"
    assert spent["optimizer_steps"] > 0 and spent["response_tokens"] >= 8 * spent["judge_calls"]
    assert spent["peak_memory_mb"] > 50

    shutil.rmtree(own.folder / "runs")
    again = own.train(*SWEEP, "seed=0,1,2").ok()
    assert again.err.count("running") == 1, "only seed 2 is run"
    assert states(own) == ["done (committed)", "done (committed)", "done"]
    assert "done (committed)" in again.out
    plan = own.plan(*SWEEP, "seed=0,1,2")
    assert "3 hits, 0 misses" in plan.out and plan.out.count("done (committed)") == 3
    assert {name: (folder / name).read_bytes() for name in kept} == kept

    shutil.rmtree(own.folder / "runs")
    table = own.run("table", "abc/table1", "--points", "2").ok()
    assert "| sparse (RLHF) | 3" in table.out and "scale cpu; model scratch" in table.out
    plan = own.plan(*SWEEP, "seed=0", "sweep.recompute=true")
    assert "done (committed)" not in plan.out and "miss  rl" in plan.out


def test_a_cell_that_diverges_is_kept_as_failed(own: Workplace) -> None:
    ended = own.train(*SWEEP, "seed=0", "steps=4", "algorithm.optimizer.learning_rate=1e-4,1e20")
    assert ended.code == 1 and "2 cells, 1 failed" in ended.out
    paths = list((own.folder / "experiments" / NAME).glob("*.json"))
    found = {json.loads(path.read_text())["status"]: path for path in paths}
    assert set(found) == {"complete", "failed"}
    mixed = own.run("table", "abc/table1", "--points", "4").error()
    assert "learning_rate" in mixed, "two rates are two configurations"
    found["complete"].with_suffix(".csv").unlink()
    table = own.run("table", "abc/table1", "--points", "4").ok()
    assert "0 of 4 points (failed)" in table.out

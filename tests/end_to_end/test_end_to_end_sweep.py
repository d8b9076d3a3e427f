"""Sweeps: one bad cell harms no other, a second call runs only what is missing."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import STEPS, Run, Workplace

pytestmark = pytest.mark.slow

POISONED = [
    "-m", "reward_scheme=sparse", "steps=2", "algorithm.optimizer.learning_rate=1e-4,1e20,1e-3",
]  # fmt: skip


def test_field_B40_one_poisoned_cell_does_not_stop_the_others(own: Workplace) -> None:
    before = own.plan(*POISONED)
    assert "4 hits, 3 misses" in before.out
    assert not (own.folder / "runs").exists(), "a plan leaves nothing behind"
    first = own.train(*POISONED)
    assert first.code == 1
    assert "Traceback" not in first.err
    assert "3 cells, 1 failed" in first.out
    table = " ".join(first.out.split())
    for part in ("1e+20", "failed", "learning_rate"):
        assert part in table
    runs = {path.parent.name: path for path in own.folder.glob("runs/sparse/*/results.json")}
    assert len(runs) == 2
    (record,) = own.folder.glob("runs/sweeps/*/cells.jsonl")
    states = {c["number"]: c["state"] for c in map(json.loads, record.read_text().splitlines())}
    assert states == {0: "done", 1: "failed", 2: "done"}
    kept = {name: path.stat().st_mtime_ns for name, path in runs.items()}

    again = own.train(*POISONED)
    assert again.code == 1
    assert len(re.findall(r"^rl \w+: running$", again.err, re.MULTILINE)) == 1
    assert len(re.findall(r"^rl \w+: complete in", again.err, re.MULTILINE)) == 2
    assert kept == {name: path.stat().st_mtime_ns for name, path in runs.items()}
    after = own.plan(*POISONED)
    assert "6 hits, 1 misses" in after.out


def test_plan_of_a_sweep_counts_shared_stages_once(fresh: Workplace) -> None:
    plan = fresh.plan("-m", "reward_scheme=sparse,uniform,abc", "seed=0,1,2")
    assert "0 hits, 13 misses" in plan.out  # base model, SFT, reward model, oracle, and nine runs
    assert plan.out.count("miss  rl ") == 9
    assert not fresh.store.exists()
    assert not (fresh.folder / "runs").exists()


def test_plan_of_a_sweep_with_a_mistake_fails(fresh: Workplace) -> None:
    ended = fresh.run("plan", *fresh.base, "-m", "reward_scheme.beta=0.5,1.4")
    assert ended.code != 0
    assert "1.4" in ended.err + ended.out
    assert "Traceback" not in ended.err


def test_cells_side_by_side_equal_single_runs(own: Workplace, first: Run) -> None:
    ended = own.train(
        "-m", "seed=0,1", f"steps={STEPS}", "run.sample_every=10", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert ended.ok()
    assert "2 cells, 0 failed" in ended.out
    found = {}
    for folder in own.folder.glob("runs/abc/*"):
        run = Run(ended, folder)
        found[run.json("results.json")["seeds"]["seed"]] = run
    assert set(found) == {0, 1}
    assert found[0].folder.name == first.json("manifest.json")["key"]
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert found[0].bytes(name) == first.bytes(name)
        assert found[1].bytes(name) != first.bytes(name)


def test_field_B40_a_cell_that_cannot_be_composed_or_read_does_not_stop_the_others(
    own: Workplace,
) -> None:
    """Mistakes that only one cell has: a file that is missing, a number out of range."""
    good = own.base[1].partition("=")[2]
    ended = own.train("-m", f"dataset.path={good},none.jsonl", "steps=1", "oracle.enabled=false")
    assert ended.code == 1
    assert "2 cells, 1 failed" in ended.out
    assert "none.jsonl" in ended.out + ended.err
    assert len(list(own.folder.glob("runs/abc/*/results.json"))) == 1

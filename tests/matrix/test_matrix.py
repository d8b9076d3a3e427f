"""Two processes against one by the whole RL stage, and what the committed log says of all cells."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from matrix.__main__ import cells
from matrix.cells import BATCH, HARDWARE, Place
from matrix.compare import Worst, distance, worst, worst_weights
from matrix.log import LOG, engine_sha256, names

IN_CI = {
    "abc, all weights": ["cpu_zero2", "cpu_zero3", "cpu_zero3_offload"],
    "abc, LoRA": ["cpu_zero3"],
}
ROW = {"length/mean": 5.0, "ppo/clip_fraction": 0.1, "kl/k1": 20.0, "step": 0}


def test_a_metric_is_apart_by_its_size_or_by_one() -> None:
    assert distance("kl/k1", 20.2, 20.0, ROW) == pytest.approx(0.01)
    assert distance("kl/k1", 0.3, 0.1, ROW) == pytest.approx(0.2)
    assert distance("kl/k1", math.nan, 0.1, ROW) == math.inf
    assert distance("kl/k1", None, 0.1, ROW) == math.inf
    assert distance("kl/k1", None, None, ROW) == 0.0


def test_two_tokens_may_lie_on_the_other_side_of_a_bound() -> None:
    tokens = 5 * BATCH
    assert distance("ppo/clip_fraction", 0.1 + 2 / tokens, 0.1, ROW) == 0.0
    assert distance("ppo/clip_fraction", 0.1 + 3 / tokens, 0.1, ROW) == pytest.approx(3 / tokens)


def test_the_worst_metric_is_named() -> None:
    other = {**ROW, "kl/k1": 20.1}
    assert worst([ROW, other], [ROW, ROW]) == Worst(pytest.approx(0.005), "kl/k1 in step 1")
    assert worst([ROW], [ROW, ROW]).size == math.inf
    assert worst([ROW], [{**ROW, "more": 1.0}]).size == math.inf


def test_weights_are_apart_by_norm() -> None:
    known = {"a": torch.tensor([3.0, 4.0]), "b": torch.ones(2)}
    found = worst_weights({**known, "a": torch.tensor([3.0, 4.5])}, known)
    assert (found.size, found.name) == (pytest.approx(0.1), "a")
    assert worst_weights({"a": known["a"]}, known).size == math.inf


def test_the_log_is_of_this_engine_and_all_its_cells_are_within_bounds() -> None:
    lines = LOG.read_text(encoding="utf-8").splitlines()
    assert f"engine {engine_sha256()}" in lines, "run make matrix and commit its log"
    for name in names():
        (found,) = (line for line in lines if line.startswith(f"{name}  "))
        assert found.endswith("within"), found


@pytest.mark.slow
@pytest.mark.xdist_group("matrix")
@pytest.mark.parametrize("kind", IN_CI)
def test_two_processes_compute_what_one_does(kind: str, tmp_path: Path) -> None:
    assert set(IN_CI[kind]) <= set(HARDWARE[kind])
    for finding in cells(Place(tmp_path), kind, [f"{kind}, {each}" for each in IN_CI[kind]]):
        assert not finding.wrong, finding.line()

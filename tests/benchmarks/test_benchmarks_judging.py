"""What attributions cost beside attention: quotients by hand, and a tiny measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import loaded
from tokencredit.bench.workload import Size, Work

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "judging.py"


@pytest.fixture(scope="module")
def judging() -> Any:
    return loaded(SCRIPT)


def test_quotients_are_taken_within_a_round(judging: Any) -> None:
    fast = [judging.Taken(s, s / 2, mb, None) for s, mb in ((1.0, 10.0), (2.0, 8.0), (1.0, 5.0))]
    slow = [judging.Taken(s, s, mb, 0.25) for s, mb in ((3.0, 20.0), (8.0, 30.0), (9.0, 15.0))]
    found = judging.summary({"attention": fast, "other": slow})["other"]
    assert found["times"] == {"median": 4.0, "least": 3.0, "greatest": 9.0}
    assert found["times_processor"]["median"] == 8.0
    assert found["times_memory"] == 3.0 and found["completeness_gap"] == 0.25
    lines = judging.table(judging.summary({"attention": fast, "other": slow}))
    assert "4.0 (3.0–9.0)" in lines[2] and "0.2500" in lines[2]
    untold = [judging.Taken(1.0, 1.0, None, None)]
    assert judging.summary({"attention": untold})["attention"]["times_memory"] is None


def test_judges_read_one_rollout_through_one_model(judging: Any) -> None:
    size = Size(layers=1, width=16, vocabulary=64)
    work = Work(prompt_lengths=(3, 2), response_lengths=(4, 4), size=size)
    threads = torch.get_num_threads()
    try:
        found = judging.measure(work, steps=3, rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert list(found) == ["attention", "gradient_x_input", "integrated_gradients"]
    assert all(len(each) == 1 and each[0].seconds > 0 for each in found.values())
    assert found["attention"][0].gap is None
    assert found["integrated_gradients"][0].gap < found["gradient_x_input"][0].gap
    judges, rollout = judging.judges_of(work, 3), judging.rollout_of(work)
    scores = [judge(rollout).scores for judge in judges.values()]
    assert torch.allclose(scores[0], scores[1], atol=1e-6) and torch.equal(scores[1], scores[2])

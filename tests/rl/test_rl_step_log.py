"""The time of a step's phases."""

from __future__ import annotations

import time

import pytest

from builders import make_rollout
from tokencredit.rl.step_log import Clock


def test_phases_are_told_apart_and_an_evaluation_is_not_counted_as_slow_rollout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5 response tokens in 2 + 0.5 seconds are 2 a second, whatever the evaluation took."""
    now = 10.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock(started=now)
    for phase, seconds in (("evaluation", 7.0), ("rollout", 2.0), ("update", 0.5)):
        now += seconds
        clock.mark(phase)
    rollout = make_rollout([2, 3])
    assert int(rollout.response_mask.sum()) == 5
    assert clock.timings(rollout) == {
        "time/evaluation_seconds": 7.0,
        "time/rollout_seconds": 2.0,
        "time/update_seconds": 0.5,
        "throughput/tokens_per_second": 2.0,
    }

"""Medians, quotients of rounds, and intervals, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from compare_abc import text, verdict
from ratios import column, median_interval, memory_over_idle, paired, spread
from rounds import Played
from tables import faster_peer, page, ratios_to, setting_page
from workload import SETTINGS


def row(whole: float, peak: float = 900.0, idle: float = 500.0) -> dict[str, Any]:
    """A measurement as a program reports it."""
    return {
        "whole": whole,
        "rollout": whole / 4,
        "scoring": whole / 4,
        "optimisation": whole / 2,
        "response_tokens": 2048,
        "peak_rss_mb": peak,
        "idle_rss_mb": idle,
        "optimizer_steps": 16,
        "weight_change": 1e-4,
    }


def programs() -> dict[str, Played]:
    """Two peers and ours, three rounds; the slow one failed in the second."""
    slow = Played(rounds=[row(8.0, peak=1100.0), None, None], failures=["Boom: no memory"])
    fast = Played(rounds=[row(6.0), row(7.0), row(5.0, peak=1000.0)])
    ours = Played(rounds=[row(2.0, peak=700.0), row(3.5), row(2.5)], facts={"idle_rss_mb": 500.0})
    return {"slow": slow, "fast": fast, "tokencredit": ours}


def test_medians_and_ranges() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (2.5, 1.0, 10.0, 4)
    assert found.text() == "2.50 (1.00–10.00)"
    assert spread([]) is None


def test_quotients_are_taken_within_a_round_and_only_of_whole_pairs() -> None:
    played = programs()
    assert paired(played["fast"].rounds, played["tokencredit"].rounds) == [3.0, 2.0, 2.0]
    assert paired(played["slow"].rounds, played["tokencredit"].rounds) == [4.0]


def test_memory_is_the_growth_above_the_idle_process() -> None:
    assert memory_over_idle(programs()["fast"].rounds) == 500.0
    assert memory_over_idle([None]) is None


def test_rounds_that_failed_are_left_out_of_a_column() -> None:
    assert column(programs()["slow"].rounds, "whole") == [8.0]
    assert column([row(1.0) | {"rollout": None}], "rollout") == []


@pytest.mark.parametrize(
    ("count", "ends"), [(6, (0, 5)), (20, (5, 14)), (24, (6, 17)), (100, (39, 60))]
)
def test_the_interval_is_that_of_the_sign_test(count: int, ends: tuple[int, int]) -> None:
    numbers = [float(number) for number in range(count)]
    assert median_interval(numbers[::-1]) == ends


def test_five_numbers_have_no_interval() -> None:
    with pytest.raises(ValueError, match="5 numbers are too few"):
        median_interval([1.0] * 5)


def test_ratios_compare_every_peer_with_ours() -> None:
    played = programs()
    assert faster_peer(played, "tokencredit") == "fast"
    found = ratios_to(played, "tokencredit")
    assert set(found) == {"slow", "fast"}
    assert found["fast"]["of_medians"] == 6.0 / 2.5
    assert found["fast"]["paired"] == {"median": 2.0, "low": 2.0, "high": 3.0, "count": 3}
    assert found["fast"]["memory"] == 400.0 / 500.0
    assert found["slow"]["memory"] == 400.0 / 600.0


def test_without_ours_there_are_no_ratios() -> None:
    played = programs()
    del played["tokencredit"]
    assert ratios_to(played, "tokencredit") == {}


def test_the_page_counts_failures_and_names_what_is_missing() -> None:
    body = setting_page(SETTINGS["a"], programs(), "tokencredit")
    assert "| slow | 8.00 (8.00–8.00) |" in body
    assert "| 1 | 2 |" in body  # rounds done, rounds failed
    assert "- `slow` failed in 2 of 3 rounds: Boom: no memory" in body
    assert "| fast (the faster peer) | 2.40 | 2.00 (2.00–3.00) | 0.80 |" in body
    machine = {"cpu": "a cpu", "cores": 2, "threads": 2, "iterations": 3, "date": "2000-01-01"}
    whole = page({"a": programs()}, SETTINGS, {"absent": "no such file"}, machine, "tokencredit")
    assert "- `absent` is missing: no such file" in whole
    assert "a cpu, 2 cores, 2 threads" in whole


def test_a_program_that_never_ran_has_a_row_too() -> None:
    body = setting_page(SETTINGS["a"], {"gone": Played(rounds=[None], failures=["no"])}, "ours")
    assert "| gone | – | – | – | – | – | – | – | 0 | 1 |" in body


def test_the_cost_of_abc_is_the_median_quotient_with_its_interval() -> None:
    sparse = [row(float(number), peak=1000.0) for number in range(1, 9)]
    abc = [row(number * 1.5, peak=1040.0) for number in range(1, 9)]
    found = verdict({"abc": Played(rounds=abc), "sparse": Played(rounds=sparse)})
    assert found["whole"] == {"ratio": 1.5, "interval": (1.5, 1.5), "pairs": 8}
    assert found["peak_memory"] == 1.04
    assert found["memory_over_idle"] == 540 / 500
    assert "95 % [1.500, 1.500]  8 pairs" in text("abc32", found)


def test_failed_pairs_leave_no_false_interval() -> None:
    sparse = Played(rounds=[row(1.0)] * 4 + [None] * 4, failures=["Boom"])
    found = verdict({"abc": Played(rounds=[row(1.0)] * 8), "sparse": sparse})
    assert found["whole"]["interval"] is None
    assert "sparse failed: Boom" in text("abc32", found)

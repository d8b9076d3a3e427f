"""Medians, shares within a round, tables, growth, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench_work import result, small, timed_round
from tokencredit.bench.figure import draw
from tokencredit.bench.growth import COLUMNS, Point, Sweep, csv_text, points, rows_of
from tokencredit.bench.report import SHOWN, Spread, aligned, provenance, summary, table
from tokencredit.bench.workload import Work


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread(0.5, 0.25, 1.0).text() == "0.50 (0.25–1.00)"
    assert Spread(0.5, 0.25, 1.0).text(0, 100) == "50 (25–100)"


def test_medians_by_hand() -> None:
    found = summary(result(timed_round(1, 2.0), timed_round(2, 4.0), timed_round(3, 1.0)))
    assert found["whole"]["seconds"] == {"median": 2.0, "least": 1.0, "greatest": 4.0}
    assert found["generation"]["seconds"]["median"] == pytest.approx(0.4)
    assert found["whole"]["tokens_per_second"] == 50
    assert found["optimisation"]["tokens_per_second"] == 100
    assert found["whole"]["flops_per_second"] == pytest.approx((10 + 27 + 100) / 2)
    assert found["optimisation"]["padding"] == 0.2
    assert found["peak_above_idle_mb"] == 53.0


def test_the_share_is_taken_within_a_round() -> None:
    """A machine at half its speed slows both alike, and the share does not move."""
    slow = {"generation": 0.2, "scoring": 0.2, "optimisation": 0.6}
    found = summary(result(timed_round(1, 2.0), timed_round(2, 4.0, ceiling=slow)))
    share = found["optimisation"]["share_of_ceiling"]
    assert share["median"] == pytest.approx((100 / 1.0) / (120 / 0.3))
    assert share["least"] == pytest.approx(share["greatest"])
    whole = found["whole"]["share_of_ceiling"]
    assert whole["median"] == pytest.approx((137 / 2.0) / (160 / 0.5))


def test_without_a_ceiling_there_is_no_share() -> None:
    found = result(timed_round(1, 2.0, ceiling=None))
    assert summary(found)["whole"]["share_of_ceiling"] is None
    (line,) = [line for line in table(found).splitlines() if line.startswith("whole")]
    assert line.split()[-2:] == ["–", "–"]


def test_memory_that_is_not_told_is_not_invented() -> None:
    found = result(timed_round(1, 2.0, peak_above_idle_mb=None))
    assert summary(found)["peak_above_idle_mb"] is None
    assert "not told" in table(found)


def test_the_table_shows_every_phase() -> None:
    lines = table(result(timed_round(1, 2.0), timed_round(2, 4.0))).splitlines()
    for phase in SHOWN:
        (line,) = [line for line in lines if line.startswith(phase)]
        assert line.count("%") == 2
    assert any("51 MB" in line or "52 MB" in line for line in lines)
    assert any("12.0 M parameters" in line for line in lines)


def test_columns_are_aligned() -> None:
    assert aligned([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc   d"]


def test_provenance_says_on_what_and_with_what() -> None:
    facts = provenance()
    assert facts["cpu"] and facts["cores"] >= 1
    assert {"torch", "transformers", "python", "tokencredit"} <= set(facts["environment"])
    assert "git_commit" in facts and facts["date"].startswith("20")
    json.dumps(facts, allow_nan=False)


def make(changes: Mapping[str, int]) -> Work:
    """A work with these changes of rows, new tokens, or width."""
    rows, new = changes.get("rows", 8), changes.get("new_tokens", 4)
    size = replace(small().size, width=changes.get("width", 64))
    return small(prompt_lengths=(5,) * rows, response_lengths=(new,) * rows, size=size)


BASE = {Sweep.rows: 8, Sweep.new_tokens: 4, Sweep.width: 64}


def test_points_are_a_quarter_to_twice_the_base() -> None:
    found: dict[Sweep, list[int]] = {}
    for point in points(BASE, make):
        found.setdefault(point.sweep, []).append(point.value)
    assert found == {
        Sweep.rows: [2, 4, 8, 16],
        Sweep.new_tokens: [1, 2, 4, 8],
        Sweep.width: [16, 32, 64, 128],
    }
    assert sum(point.work == make({}) for point in points(BASE, make)) == 3


@pytest.mark.parametrize(
    ("middle", "widths"),
    [(256, [64, 128, 256, 512]), (192, [64, 128, 192, 384]), (16, [16, 32]), (32, [16, 32, 64])],
)
def test_widths_are_those_a_model_may_have(middle: int, widths: list[int]) -> None:
    found = points({Sweep.width: middle}, make)
    assert [point.value for point in found] == widths


def grown() -> list[tuple[Point, dict[str, Any]]]:
    """A result for each point, slower with every value."""
    return [
        (p, {**result(timed_round(1, float(p.value))), "parameters": 1000 * p.value})
        for p in points(BASE, make)
    ]


def test_the_csv_holds_what_is_shown() -> None:
    rows = rows_of(grown())
    assert len(rows) == 12 * len(SHOWN)
    read = list(csv.DictReader(csv_text(rows).splitlines()))
    assert tuple(read[0]) == COLUMNS
    assert [{k: str(v) for k, v in row.items()} for row in rows] == read
    (one,) = [r for r in rows if (r["sweep"], r["value"], r["phase"]) == ("rows", 16, "generation")]
    assert one["seconds"] == pytest.approx(3.2) and one["tokens_per_second"] == pytest.approx(31.25)


def test_the_figure_is_drawn_twice_and_is_the_same_each_time(tmp_path: Path) -> None:
    rows = rows_of(grown())
    paths = draw(rows, "a title", tmp_path)
    assert [path.name for path in paths] == ["growth.png", "growth.pdf"]
    first = [path.read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG") and first[1].startswith(b"%PDF")
    assert [path.read_bytes() for path in draw(rows, "a title", tmp_path)] == first

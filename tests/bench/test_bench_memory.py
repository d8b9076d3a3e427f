"""The memory of one process against that of several: what is measured, and the committed numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tokencredit.bench.memory import PROCESSES, WORK, Found, Peaks, compare

COMMITTED = Path(__file__).parents[2] / "experiments" / "benchmarks" / "measured" / "memory.json"


def test_shares_are_of_medians_and_the_largest_rank_counts() -> None:
    alone = [Peaks(loading=n, training=10 * n) for n in (100.0, 104.0, 300.0)]
    ranks = [
        [Peaks(loading=n, training=5 * n) for n in (52.0, 51.0, 900.0)],
        [Peaks(loading=n, training=5 * n) for n in (1.0, 26.0, 26.0)],
    ]
    found = Found(parameters=10**6, alone=alone, each=ranks)
    assert found.shares() == Peaks(loading=0.5, training=0.25)
    assert "medians of 3" in found.table() and found.table().split()[-2:] == ["0.50", "0.25"]


def test_the_committed_numbers_are_those_that_the_pages_say() -> None:
    known = json.loads(COMMITTED.read_text(encoding="utf-8"))
    rounds = [[Peaks(**each) for each in rank] for rank in [known["alone"], *known["each"]]]
    found = Found(parameters=known["parameters"], alone=rounds[0], each=rounds[1:])
    share = found.shares()
    assert known["shares"] == {"loading": share.loading, "training": share.training}
    assert len(found.each) == PROCESSES and share.training <= 0.65
    root = COMMITTED.parents[3]
    for page in (root / "launch" / "README.md", COMMITTED.with_name("README.md")):
        assert f"{share.training:.2f}" in page.read_text(encoding="utf-8"), page


@pytest.mark.slow
def test_processes_are_measured() -> None:
    """On 11 M parameters."""
    found = compare(replace(WORK, size=replace(WORK.size, layers=4, width=192)), rounds=1)
    whole = found.parameters * 4 / 2**20
    (alone,) = found.alone
    assert alone.loading > 0.9 * whole and alone.training > 3 * whole
    assert [len(rounds) for rounds in found.each] == [1] * PROCESSES
    assert all(rank[0].training > rank[0].loading > 0.4 * whole for rank in found.each)

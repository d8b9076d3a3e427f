"""A number has as many decimals as its interval and its error, wherever it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

from paper_runs import lines, write_csv
from tokencredit.papers.formats import Format, Runs
from tokencredit.papers.frontier import equal_kl_tables
from tokencredit.papers.held_out import held_out_table
from tokencredit.papers.kinds import find_table
from tokencredit.papers.sources import read_sources
from tokencredit.papers.verdicts import difference
from tokencredit.statistics.intervals import Interval, mean_ci
from tokencredit.statistics.rounding import interval, rounded, with_error, with_interval

SIX = (0.1234567, -0.7654321, 1.0)


def test_numbers_by_hand() -> None:
    x = Interval(0.12345, -0.00049, 1.99951, 0.0625, 4)
    assert rounded(x.mean) == "0.123" and rounded(-0.0004) == "0.000"
    assert rounded(-0.0004, signed=True) == "+0.000" and rounded(2.5, 0, signed=True) == "+2"
    assert interval(x.low, x.high) == "[0.000, 2.000]"
    assert with_interval(x) == "0.123 [0.000, 2.000]"
    assert with_interval(x, 2, signed=True) == difference(x).replace("0.123", "0.12").replace(
        "+0.000, +2.000", "+0.00, +2.00"
    )
    assert with_interval(mean_ci([0.5])) == "0.500", "a single run says nothing of others"
    assert with_error(x.mean, x.se, 4, signed=True) == "+0.1235 ± 0.0625"


def test_a_row_of_a_table_has_one_number_of_decimals(tmp_path: Path) -> None:
    """Tables: four, means and paired differences alike; what is read on pages: three."""
    curves = [
        lines(method, run, [run * SIX[run] + start] * 101, kl=[step / 9 for step in range(101)])
        for run in range(3)
        for method, start in (("abc", 0.5), ("sparse", 0.1 * run))
    ]
    sources = read_sources([write_csv(tmp_path / "r.csv", *curves)])
    runs = Runs(lambda _: sources, lambda _: [])
    made = find_table("abc/table1").made(runs).text(Format.markdown)
    ours = [cell for line in made.splitlines() for cell in line.split("|") if "[" in cell]
    assert len(ours) == 3, "two intervals and a paired difference"
    assert {len(found) for cell in ours for found in re.findall(r"\.(\d+)", cell)} == {4}
    text = equal_kl_tables(sources[0], "positive_generation", "sparse")
    cells = [cell for line in text.splitlines() for cell in line.split("|") if "[" in cell]
    assert cells
    assert {len(found) for cell in cells for found in re.findall(r"\.(\d+)", cell)} == {3}


def test_pages_say_what_the_cells_know_of_their_scorers(tmp_path: Path) -> None:
    """Cells of one stage seed share their scorers, which count once; without any, a dash."""

    def said() -> str:
        (source,) = read_sources([tmp_path])
        return held_out_table(source, "positive_generation").partition("at 8–16 tokens: ")[2]

    for seed in (1, 2, 3):
        write_csv(tmp_path / f"{seed}.csv", lines("abc", seed, [1.0] * 3))
    assert said() == "reward model –, oracle –."
    right = {"mean": 0.65, "se": 0.03, "low": 0.59, "high": 0.7049, "n": 256, "tokens": 11.5}
    for seed, stage_seed, mean in ((1, 0, 0.65), (2, 0, 0.65), (3, 1, 0.75)):
        seeds = {"seed": seed, "stage_seed": stage_seed}
        found = {"seeds": seeds, "scorers": {"reward_model": {**right, "mean": mean}}}
        (tmp_path / f"{seed}.json").write_text(json.dumps(found))
        if seed == 2:
            assert said() == "reward model 0.650 ± 0.030 [0.590, 0.705] of 256, oracle –."
    half = 12.7062 * 0.05
    ends = f"[{0.7 - half:.3f}, {0.7 + half:.3f}]"
    assert said() == f"reward model 0.700 {ends} of 2 models, oracle –."

"""What people or a large model said of answers, beside the paper's numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.formats import Format, Runs
from tokencredit.papers.judged import Judged, JudgedEntry
from tokencredit.papers.kinds import find_table
from tokencredit.papers.opinions import Benchmark, Opinion, Opinions


def made(name: str, opinions: Opinions) -> Judged:
    """The table of that name, with these opinions of the benchmark and task that it asks for."""

    def given(benchmark: Benchmark, task: str) -> Opinions:
        assert task == "main"
        return opinions if benchmark is Benchmark.mt_bench else {}

    found = find_table(name).made(Runs(lambda _: [], lambda _: [], given))
    assert isinstance(found, Judged)
    return found


def rows(table: Judged) -> dict[str, list[str]]:
    lines = [line for line in table.text(Format.markdown).splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("name", ["table1", "figure4", "figure5"])
def test_without_opinions_our_column_is_empty_and_says_why(name: str) -> None:
    table = made(f"tlcr/{name}", {})
    assert all(cell == "–" for row in rows(table).values() for cell in row[1::2])
    text = table.text(Format.markdown)
    assert "Ours is empty: " in text and "`tokencredit judge" in text and "fills it." in text


@pytest.mark.parametrize("name", ["table1", "figure4", "figure5"])
def test_the_command_that_fills_it_has_these_options(name: str) -> None:
    entry = find_table(f"tlcr/{name}")
    assert isinstance(entry, JudgedEntry)
    program, *words = entry.fills.split(" --")[0].split()
    assert program == "tokencredit"
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "160"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
    known = set(re.findall(r"^[│ *]+(--[a-z-]+)", text, re.MULTILINE))
    needed = set(re.findall(r"^│ \* +(--[a-z-]+)", text, re.MULTILINE))
    given = set(re.findall(r"--[a-z-]+", entry.fills))
    assert needed and needed <= given <= known


def test_the_papers_numbers_are_those_that_it_prints() -> None:
    assert rows(made("tlcr/table1", {}))["TLCR"] == ["5.71", "–", "4.38", "–", "5.04", "–"]
    assert rows(made("tlcr/table1", {}))["SFT"][0::2] == ["4.78", "3.01", "3.90"]
    won = rows(made("tlcr/figure4", {}))
    assert [row[0] for row in won.values()] == [
        *("84.89", "80.12", "77.19", "66.65", "77.31", "60.76"),
    ]
    assert rows(made("tlcr/figure5", {}))["TLCR"] == ["45.23", "–"]
    # Overall is the mean of both turns, but for the rounding of all three.
    entry = find_table("tlcr/table1")
    assert isinstance(entry, JudgedEntry)
    assert all(abs((a + b) / 2 - c) < 0.011 for a, b, c in entry.paper.values())


def test_opinions_stand_beside_the_papers() -> None:
    given: Opinions = {
        "tlcr": [Opinion(5.5, 5.25, 5.75, 80), None, Opinion(5.0, 4.5, 5.5, 79)],
        "other": [Opinion(1.0, 0.9, 1.1, 80)],
    }
    table = made("tlcr/table1", given)
    assert rows(table)["TLCR"] == [
        "5.71",
        "5.50 [5.25, 5.75]",
        "4.38",
        "–",
        "5.04",
        "5.00 [4.50, 5.50]",
    ]
    text = table.text(Format.markdown)
    assert "79 to 80 grades" in text and "not shown: other" in text
    lines = [line.split(",") for line in table.text(Format.csv).splitlines()]
    assert ["tlcr", "turn 1", "5.5", "5.25", "5.75", "80", "5.71"] in lines
    assert ["tlcr", "turn 2", "", "", "", "", "4.38"] in lines


def test_an_entry_says_what_is_wrong_with_it() -> None:
    given = {
        "title": "x", "source": "x", "methods": {"tlcr": "TLCR"}, "task": "main",
        "benchmark": "votes", "columns": ["won"], "why": "x", "fills": "x",
    }  # fmt: skip
    for changed, match in (
        ({"benchmark": "arena"}, "benchmark = 'arena': must be one of mt_bench"),
        ({"paper": {"ppo": [1.0]}}, "paper = 'ppo': must be one of methods"),
        ({"paper": {"tlcr": [1.0, 2.0]}}, "must have 1 numbers"),
    ):
        with pytest.raises(UserError, match=match):
            JudgedEntry.read({**given, **changed}, Path("x.yaml"))
    with pytest.raises(UserError, match="--points"):
        find_table("tlcr/table1").made(Runs(lambda _: [], lambda _: []), points=3)

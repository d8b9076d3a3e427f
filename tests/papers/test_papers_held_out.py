"""Measures of finished policies on held-out prompts: a table of them, and claims about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_runs import write_whole_cell
from tokencredit.errors import UserError
from tokencredit.papers.claims import Claim, judge_claims
from tokencredit.papers.entries import Panel, build
from tokencredit.papers.formats import Format, Runs
from tokencredit.papers.held_out import HeldOutEntry, HeldOutTable
from tokencredit.papers.measures import holds, measure
from tokencredit.papers.sources import Source, read_sources
from tokencredit.papers.verdicts import Verdict

METHODS = {"sft": "SFT", "tlcr": "TLCR", "ppo_seq": "PPO_seq", "figa": "FIGA"}


def cells(folder: Path, seeds: int = 3) -> list[Source]:
    """Cells of two methods whose length and share won differ by seed; their SFT models say less."""
    for seed in range(seeds):
        for method, more in (("tlcr", 4.0), ("ppo_seq", 1.0)):
            ends = {
                "policy/length": 10.0 + more + seed / 4,
                "policy/win_rate": 0.5 + more / 10,
                "sft/length": 10.0 + seed,
                "sft/oracle": 0.25,
            }
            write_whole_cell(
                folder, method, seed, kl=[0.0, 2.0], gold=[0.0, 1.0 + more], task="main", ends=ends
            )
    return read_sources([folder])


def entry(**changed: object) -> HeldOutEntry:
    """A table of two measures."""
    tree: dict[str, object] = {
        "title": "Held out", "source": "made", "methods": METHODS,
        "measures": ["win_rate", "length"], "panels": [{"task": "main", "points": 5}],
    }  # fmt: skip
    return HeldOutEntry.read(tree | changed, Path("x.yaml"))


def made(sources: list[Source], **changed: object) -> HeldOutTable:
    found = entry(**changed).made(Runs(lambda _: sources, lambda _: []))
    assert isinstance(found, HeldOutTable)
    return found


def lines(table: HeldOutTable) -> dict[str, list[str]]:
    """The rows by method, as text."""
    rows = table.text(Format.markdown).splitlines()[2:]
    parts = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row[:1] == "|"]
    return {row[0].partition(" ")[0]: row[1:] for row in parts}


def test_every_method_has_a_row_with_means_and_intervals(tmp_path: Path) -> None:
    table = made(cells(tmp_path))
    rows = lines(table)
    assert list(rows) == list(METHODS)
    assert rows["tlcr"][0] == "3" and rows["tlcr"][1].startswith("0.900")
    assert rows["tlcr"][2].startswith("14.250")  # 14, 14.25, 14.5
    assert rows["figa"] == ["0", "–", "–"]
    # 10, 11, 12: each SFT model once, though two runs began with it
    assert rows["sft"][:2] == ["3", "–"] and rows["sft"][2].startswith("11.000")
    assert "FIGA" in table.text(Format.markdown).partition("Note")[2], "what has no runs is said"


def test_the_csv_has_what_there_is(tmp_path: Path) -> None:
    rows = [row.split(",") for row in made(cells(tmp_path)).text(Format.csv).splitlines()]
    assert rows[0][-3:] == ["mean", "t_low", "t_high"]
    (length,) = [row for row in rows if row[2:4] == ["tlcr", "length"]]
    assert float(length[5]) == 14.25 and float(length[6]) < 14.25 < float(length[7])
    assert not [row for row in rows if row[2] == "figa"]


def test_without_cells_there_are_rows_without_numbers() -> None:
    table = made([])
    assert all(row == ["0", "–", "–"] for row in lines(table).values())
    assert "Note: main: there are no runs." in table.text(Format.markdown)


def test_unknown_measures_and_points_are_refused() -> None:
    with pytest.raises(UserError, match=r"measures.*must be of score"):
        entry(measures=["beauty"])
    with pytest.raises(UserError, match="--points"):
        entry().made(Runs(lambda _: [], lambda _: []), points=3)


def test_a_run_is_measured_by_its_evaluation(tmp_path: Path) -> None:
    runs = [run for run in cells(tmp_path)[0].runs if run.setting.method == "tlcr"]
    panel = Panel(task="main", points=5, column="length")
    assert measure(runs, panel, "held_out").values == {0: 14.0, 1: 14.25, 2: 14.5}
    assert holds(runs[0], "length", "held_out") and not holds(runs[0], "length", "mean")
    lost = measure(runs, Panel(task="main", points=5, column="beauty"), "held_out")
    assert not lost.values and lost.without[0] == (0, "has no beauty on held-out prompts")


@pytest.mark.parametrize(
    ("test", "method", "other", "verdict"),
    [
        ("higher", "tlcr", "ppo_seq", Verdict.supported),
        ("higher", "ppo_seq", "tlcr", Verdict.contradicted),
        ("lower", "ppo_seq", "tlcr", Verdict.supported),
    ],
)
def test_a_claim_about_the_end_of_runs(
    tmp_path: Path, test: str, method: str, other: str, verdict: Verdict
) -> None:
    sources = cells(tmp_path)
    given = {
        "name": "longer", "says": "x", "where": "x", "test": test, "statistic": "held_out",
        "method": method, "baseline": other, "others": [other],
        "panels": [Panel(task="main", points=5, column="length")],
    }  # fmt: skip
    (judged,) = judge_claims([build(Claim, given, Path("x"))], sources)
    assert judged.finding.verdict is verdict and judged.finding.n == 3
    assert "3.000" in judged.finding.text
    given["panels"] = [Panel(task="main", points=5, column="beauty")]
    (judged,) = judge_claims([build(Claim, given, Path("x"))], sources)
    assert not judged.finding.data

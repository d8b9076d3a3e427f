"""`make reproduce`: one cell of each page, the quickest; what each came to is written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paper_runs import ROOT, write_stepless_cell
from tokencredit.errors import UserError
from tokencredit.reproduction.comparing import Check, State
from tokencredit.reproduction.log import LOG, cell_of, hours_of, reproduce_pages
from tokencredit.reproduction.recorded import Machine, read_recorded
from tokencredit.reproduction.rerun import Outcome, reproduce

EXPERIMENTS = ROOT / "experiments"
MAIN = "main_job"


def test_the_quickest_cell_of_a_page_is_taken() -> None:
    chosen = cell_of(MAIN, EXPERIMENTS)
    assert chosen is not None
    took = [
        json.loads(path.read_text())["wall_seconds"] for path in (EXPERIMENTS / MAIN).glob("*.json")
    ]
    assert len(took) == 5
    assert json.loads(chosen.with_suffix(".json").read_text())["wall_seconds"] == min(took)


def test_a_cell_without_steps_is_none_to_be_made_again(tmp_path: Path) -> None:
    path = write_stepless_cell(tmp_path / "page", "dpo", 0, oracle=1.0)
    assert cell_of("page", tmp_path) is None
    with pytest.raises(UserError, match="no step to compare; a model that learnt without rollouts"):
        reproduce(path)


def test_hours_are_those_of_the_record_and_of_the_steps() -> None:
    cell = cell_of(MAIN, EXPERIMENTS)
    assert cell is not None
    seconds = json.loads(cell.with_suffix(".json").read_text())["wall_seconds"]
    assert hours_of([cell] * 60, None).startswith(f"{seconds / 60:.2f} h")
    assert hours_of([cell] * 60, 10).startswith(f"{seconds / 600:.2f} h"), "10 of 100 steps"


def test_each_page_has_a_row(tmp_path: Path) -> None:
    """The one that differs is named with its difference, and makes the whole differ."""
    shutil.copytree(EXPERIMENTS / MAIN, tmp_path / MAIN)
    for page in (MAIN, "second", "third"):
        (tmp_path / f"{page}.md.j2").write_text("")
    (tmp_path / "second").mkdir()
    cell = cell_of(MAIN, EXPERIMENTS)
    assert cell is not None
    for file in (cell, cell.with_suffix(".json")):
        shutil.copy(file, tmp_path / "second")
    asked: list[tuple[str, int | None]] = []

    def again(path: Path, steps: int | None, store: Path | None) -> Outcome:
        assert store is not None, "cells share their stages"
        asked.append((path.parent.name, steps))
        bad = path.parent.name == "second"
        state = State.different if bad else State.same
        check = Check("steps", state, "3 of 100 steps" if not bad else "step 2, kl: 1 recorded")
        cause = "numpy 1 → 2" if bad else ""
        return Outcome(read_recorded(path), [check], cause, Machine({"numpy": "2"}, "X"))

    path, equal = reproduce_pages(tmp_path, 3, None, again)
    assert asked == [(MAIN, 3), ("second", 3)] and not equal and path == tmp_path / LOG
    text = path.read_text()
    assert "| third " in text and "no cell" in text
    assert "**different**" in text and "steps: step 2, kl: 1 recorded" in text
    assert "numpy 1 → 2" in text and "numpy 2; X (recorded: Intel" in text


def test_pages_without_cells_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md.j2").write_text("")
    with pytest.raises(UserError, match="no page has a committed cell"):
        reproduce_pages(tmp_path, None, None)

"""Three steps of a committed cell, and a cell changed by hand, by the command itself.

`cells/` was made by `tokencredit train experiment=main_job scale=cpu` with the overrides that its
JSON file holds and `experiments_dir=tests/reproduction/cells`; a change of the key on purpose asks
for it to be made again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nursery import nursed
from tokencredit.cli import app

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reproduction")]

CELLS = Path(__file__).parent / "cells"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def reproduced(cell: Path, store: Path) -> Result:
    arguments = ["reproduce", str(cell), "--steps", "3", "--store", str(store)]
    with nursed():
        return CliRunner().invoke(app, arguments)


def test_a_committed_cell_comes_out_again(store: Path) -> None:
    """Equal where it was made, within tolerance elsewhere; a changed copy then names what differs."""
    (cell,) = CELLS.rglob("*.csv")
    before = {path: path.read_bytes() for path in CELLS.rglob("*") if path.is_file()}
    ended = reproduced(cell, store)
    assert ended.exit_code == 0, ended.output
    assert f"same: {cell.stem}" in ended.output and "3 of 3 steps" in ended.output
    assert {path: path.read_bytes() for path in CELLS.rglob("*") if path.is_file()} == before


def test_a_cell_changed_by_hand_names_the_first_difference(store: Path, tmp_path: Path) -> None:
    (cell,) = CELLS.rglob("*.csv")
    for file in (cell, cell.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    mine = tmp_path / cell.name
    lines = mine.read_text().splitlines()
    fields = lines[2].split(",")
    place = lines[0].split(",").index("mean_reward")
    was, fields[place] = fields[place], "9.5"
    mine.write_text("\n".join([*lines[:2], ",".join(fields), *lines[3:]]) + "\n")
    ended = reproduced(mine, store)
    assert ended.exit_code == 1
    assert "first difference: steps, step 1, mean_reward: 9.5 recorded" in ended.output
    assert was[:4] in ended.output.partition("9.5 recorded")[2] and "likely cause" in ended.output


def test_a_cell_of_another_configuration_is_not_even_run(tmp_path: Path, store: Path) -> None:
    (cell,) = CELLS.rglob("*.csv")
    shutil.copy(cell, tmp_path)
    record = json.loads(cell.with_suffix(".json").read_text())
    record["provenance"]["overrides"] += ["rollout.top_p=0.9"]
    (tmp_path / f"{cell.stem}.json").write_text(json.dumps(record))
    ended = reproduced(tmp_path / cell.name, store)
    assert ended.exit_code == 1
    assert "inputs.rollout.top_p: 1.0 → 0.9" in ended.output and "conf/" in ended.output
    assert "running" not in ended.output

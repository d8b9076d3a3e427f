"""The table of judges that were trained on the same pairs, of files that are made up."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.page import write_page

ADVANTAGE = {
    "pairs": 1440,
    "held_out": 350,
    "sign_accuracy": 0.6,
    "sign_accuracy_low": 0.55,
    "sign_accuracy_high": 0.65,
    "mse": 0.98765,
    "train_mse": 0.9,
    "antisymmetry_gap": 0.01234,
    "centring_residual": 1.5e-7,
}
BRADLEY_TERRY = {
    "pairs": 1441,
    "held_out": 351,
    "accuracy": 0.62,
    "accuracy_low": 0.57,
    "accuracy_high": 0.67,
}
FACTS = {
    "scale": "cpu",
    "names": {"model": "m", "dataset": "d", "hardware": "cpu"},
    "seeds": {"seed": 0, "stage_seed": 0},
    "git_commit": "0123456789abcdef",
    "processor": "p",
}


def write(folder: Path, name: str, figures: dict[str, Any], seconds: float = 90.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**FACTS, "wall_seconds": seconds, "figures": figures}))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "experiments" / "dae" / "hh_harmless"


def table(*more: str) -> str:
    made = CliRunner().invoke(app, ["table", "dae/table_judges", *more])
    assert made.exit_code == 0, made.output
    return made.output


def test_shares_with_intervals_errors_and_time_of_both(folder: Path) -> None:
    write(folder, "advantage", ADVANTAGE, 5400)
    write(folder, "bradley_terry", BRADLEY_TERRY)
    text = table()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[:4]]
    assert rows[2] == [
        *("advantage model", "1440", "350", "0.600 [0.550, 0.650]"),
        *("0.988", "0.9", "0.0123", "1.5e-07", "90.0"),
    ]
    assert rows[3][:4] == ["Bradley–Terry reward model", "1441", "351", "0.620 [0.570, 0.670]"]
    assert rows[3][-1] == "1.5" and rows[3][4] == rows[0][4].replace(rows[0][4], "–")
    assert "commit 0123456789" in text and "There is no" not in text
    lines = list(csv.DictReader(io.StringIO(table("--format", "csv"))))
    assert [float(line["share"]) for line in lines] == [0.6, 0.62]
    assert lines[0]["mse"] == "0.98765" and lines[1]["mse"] == ""


def test_what_is_missing_is_said_with_the_command(folder: Path, tmp_path: Path) -> None:
    text = table()
    assert "There is no advantage model, Bradley–Terry reward model yet." in text
    assert "`tokencredit train -m experiment=dae/hh_harmless scale=cpu` fills" in text
    write(tmp_path / "own", "advantage", ADVANTAGE | {"sign_accuracy": None})
    assert "There is no Bradley–Terry" in table("--runs", str(tmp_path / "own"))
    points = CliRunner().invoke(app, ["table", "dae/table_judges", "--points", "3"])
    assert isinstance(points.exception, UserError) and "--points = 3" in str(points.exception)
    del folder


def test_a_file_without_figures_is_damaged(folder: Path) -> None:
    write(folder, "advantage", {}).write_text('{"wall_seconds": 3}')
    made = CliRunner().invoke(app, ["table", "dae/table_judges"])
    assert isinstance(made.exception, UserError) and "advantage.json" in str(made.exception)


def test_a_page_has_the_table(folder: Path, tmp_path: Path) -> None:
    write(folder, "bradley_terry", BRADLEY_TERRY)
    folder.with_suffix(".md.j2").write_text('{{ table("dae/table_judges") }}\n')
    (page,) = write_page("dae/hh_harmless", tmp_path / "experiments")
    text = page.read_text()
    assert "0.620 [0.570, 0.670]" in text and "There is no advantage model yet." in text

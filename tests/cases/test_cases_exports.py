"""Names and texts of models in files: they overwrite nothing and compute nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.evaluation.compare.report import _labels
from tokencredit.evaluation.formats import file_names
from tokencredit.papers.scores import read_scores, write_scores
from tokencredit.papers.win_tables import long_csv, wide_csv
from tokencredit.statistics.win_rates import win_matrix
from tokencredit.store.sheets import as_written, csv_text

NAMES = [
    "org/model", "org model", "org_model", "org:model", "ORG_model", "...", "model", "é", "e\u0301",
    "x" * 300, "x" * 301, "名" * 200, "名" * 201,
]  # fmt: skip


@pytest.mark.parametrize("form", ["alpaca_eval", "mt_bench"])
def test_case_14_every_generator_has_a_file_of_its_own(tmp_path: Path, form: str) -> None:
    rows = [{"instruction": "q", "output": f"by {name}", "generator": name} for name in NAMES]
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    command = ["judge", "export", str(tmp_path / "answers.json"), "--format", form]
    answer = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    written = [path.read_text("utf-8") for path in (tmp_path / "out").iterdir()]
    assert len(written) == len(NAMES)
    for name in NAMES:
        ending = json.dumps(f"by {name}", ensure_ascii=False)
        assert sum(ending in text for text in written) == 1, name


def test_case_14_names_of_files_do_not_collide_in_capitals_or_with_a_hash() -> None:
    assert file_names(["a", "b/c"]) == {"a": "a", "b/c": "b_c"}
    (first, second) = file_names(["a b", "a/b"]).values()
    stems = file_names(["a b", "a/b", first, "A_B"]).values()
    assert len({stem.casefold() for stem in stems}) == 4 and first != second


def test_case_14_second_seeds_take_nobodys_name() -> None:
    assert _labels(["a", "a", "b", "a"]) == ["a", "a#2", "b", "a#3"]
    assert _labels(["a", "a#2", "a", "a"]) == ["a", "a#2", "a#3", "a#4"]
    assert len(set(_labels(["a", "a", "a#2", "a#2"]))) == 4


FORMULAS = [
    "=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)",
    "\t=1", "\r=1", "\n=1", "＝1", "-x", "-1e5x",
]  # fmt: skip
NUMBERS = ["-0.3", "+1", "-1e-05", "-inf", "-0.151 [-0.3, 0.1]", "-0.3 ± 0.1", "-", "0.5", "", "–"]


def test_case_14_formulas_are_texts_and_numbers_stay_numbers() -> None:
    for text in FORMULAS:
        (cell,) = next(csv.reader(io.StringIO(csv_text([[text]]), newline="")))
        assert cell == "'" + text.replace("\r", "\n") and as_written(cell) == cell[1:]
    assert csv_text([["a\r=1"]]) == '"a\n=1"\n'
    for text in (*NUMBERS, "plain", "a=b", "'quoted'"):
        assert next(csv.reader(io.StringIO(csv_text([[text, 1]]), newline="")))[0] == text
        assert as_written(text) == text
    assert csv_text([[-0.3, None, 2, "a,b"]]) == '-0.3,,2,"a,b"\n'


def test_case_14_a_name_that_is_a_formula_is_neutral_in_every_table(tmp_path: Path) -> None:
    matrix = win_matrix({"=a": {None: [1.0, 2.0]}, "-b": {None: [0.0, 3.0]}})
    for text in (wide_csv(matrix), long_csv(matrix)):
        cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
        assert "'=a" in cells and "'-b" in cells and not {"=a", "-b"} & set(cells)
    write_scores([("=a", 0, 1, -0.5), ("b", 0, 1, 1.0)], tmp_path / "scores.csv")
    assert "\n'=a,0,1,-0.5\n" in (tmp_path / "scores.csv").read_text("utf-8")
    assert list(read_scores(tmp_path / "scores.csv").methods) == ["=a", "b"]

"""Opinions in the files of FastChat, of AlpacaEval, and of our own count of votes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.evaluation.opinions import read_opinions
from tokencredit.papers.opinions import Benchmark


def grades(folder: Path) -> Path:
    """Two questions of two turns, as FastChat's single-answer grading leaves them."""
    rows = [
        {
            "question_id": question, "model": "tlcr", "judge": ["gpt-4", "single-v1"],
            "user_prompt": "", "judgment": "Rating: [[x]]", "score": score, "turn": turn,
            "tstamp": 1.0,
        }
        for question, turn, score in ((81, 1, 6), (81, 2, 3), (82, 1, 8), (82, 2, -1))
    ]  # fmt: skip
    path = folder / "gpt-4_single.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def verdicts(folder: Path, model: str = "tlcr") -> Path:
    """Four verdicts of AlpacaEval against one baseline, one against another."""
    rows = [
        {
            "instruction": f"q{n}", "output_1": "a", "generator_1": baseline, "output_2": "b",
            "generator_2": model, "annotator": "alpaca_eval_gpt4", "preference": preference,
        }
        for n, (baseline, preference) in enumerate(
            [("sft", 2), ("sft", 2), ("sft", 1), ("sft", 1.5), ("dpo", 1)]
        )
    ]  # fmt: skip
    path = folder / "annotations.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def votes(folder: Path) -> Path:
    """What `judge people count --out` writes."""
    preferred = [
        {"method": "tlcr", "share": 0.6, "low": 0.5, "high": 0.7, "by_sheet": {}},
        {"method": "sft", "share": 0.4, "low": 0.3, "high": 0.5, "by_sheet": {}},
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "people.json"
    path.write_text(json.dumps({"samples": 100, "most_preferred": preferred}))
    return path


def test_grades_of_each_turn_and_of_both_without_those_that_hold_no_rating(tmp_path: Path) -> None:
    grades(tmp_path)
    first, second, both = read_opinions(Benchmark.mt_bench, [tmp_path])["tlcr"]
    assert first is not None and second is not None and both is not None
    assert (first.mean, first.n) == (7, 2) and (second.mean, second.n) == (3, 1)
    # Deviations are −1 and 1: a standard error of 1.
    assert (first.low, first.high) == pytest.approx((7 - 1.96, 7 + 1.96), abs=1e-3)
    assert both.mean == pytest.approx(17 / 3) and both.n == 3


def test_the_share_won_against_each_baseline(tmp_path: Path) -> None:
    found = read_opinions(Benchmark.alpaca_eval, [verdicts(tmp_path)])
    (sft,), (dpo,) = found["sft"], found["dpo"]
    assert sft is not None and dpo is not None
    assert (sft.mean, sft.n) == (62.5, 4) and 0 < sft.low < 62.5 < sft.high < 100
    assert (dpo.mean, dpo.n) == (0, 1)
    with pytest.raises(UserError, match="are of other, tlcr; give those of one model"):
        other = verdicts(tmp_path / "b", "other")
        read_opinions(Benchmark.alpaca_eval, [tmp_path / "annotations.json", other])


def test_shares_of_votes(tmp_path: Path) -> None:
    found = read_opinions(Benchmark.votes, [votes(tmp_path)])
    (own,) = found["tlcr"]
    assert own is not None
    assert (own.mean, own.low, own.high, own.n) == pytest.approx((60, 50, 70, 100))
    with pytest.raises(UserError, match="are two counts"):
        read_opinions(Benchmark.votes, [votes(tmp_path / "a"), votes(tmp_path / "b")])


def test_nothing_is_none_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert read_opinions(Benchmark.mt_bench, [tmp_path]) == {}
    with pytest.raises(UserError, match="no such file or folder"):
        read_opinions(Benchmark.votes, [tmp_path / "x"])


@pytest.mark.parametrize(
    ("table", "make", "shown"),
    [
        ("table1", grades, "7.00 [5.04, 8.96]"),
        ("figure4", verdicts, "62.50 ["),
        ("figure5", votes, "60.00 [50.00, 70.00]"),
    ],
)
def test_the_tables_of_the_catalogue_show_them(
    tmp_path: Path, table: str, make: object, shown: str
) -> None:
    assert callable(make)
    asked = ["table", f"tlcr/{table}", "--runs", str(make(tmp_path))]
    answer = CliRunner().invoke(app, asked)
    assert answer.exit_code == 0, answer.output
    assert shown in answer.output and "Ours: mean and 95 % interval" in answer.output

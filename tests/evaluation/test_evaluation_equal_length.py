"""`judge winrate --equal-length`: from AlpacaEval's files to rates of answers of one length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from typer.testing import CliRunner, Result

from tokencredit.cli import app
from tokencredit.errors import UserError

ABILITIES = {"plain": 0.0, "long": 0.0, "good": 1.0}


def made(count: int = 400) -> list[dict[str, Any]]:
    """Three models against one baseline, by a judge that likes length, on easy and hard prompts."""
    draw, rows = np.random.default_rng(2), []
    for k in range(count):
        ease = draw.normal()
        for name, ability in ABILITIES.items():
            base = int(draw.integers(50, 60))
            own = base + int(draw.integers(5, 90)) * (1 if name == "long" else draw.choice([-1, 1]))
            p = expit(ability + 1.5 * ease + 1.5 * np.tanh((own - base) / 55))
            rows.append(
                {
                    "instruction": f"question {k}",
                    "generator_1": "base", "output_1": "b" * base,
                    "generator_2": name, "output_2": "m" * max(own, 1),
                    "preference": 2 if draw.random() < p else 1,
                }
            )  # fmt: skip
    return rows


def winrate(rows: list[dict[str, Any]], place: Path, *more: str) -> Result:
    path = place / "annotations.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    fixed = ["judge", "winrate", "--annotations", str(path), "--out", str(place / "out")]
    return CliRunner().invoke(app, [*fixed, *more])


def test_length_and_difficulty_are_taken_out_of_three_models(tmp_path: Path) -> None:
    """`long` wins more often than `plain`, and is as good."""
    result = winrate(made(), tmp_path, "--equal-length")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "winrate.json").read_text())
    raw = {row["model"]: row["mean"] for row in found["win_rates"]}
    equal = {row["model"]: row["reading"] for row in found["at_equal_length"]}
    assert raw["long"] > raw["plain"] + 0.08
    for name, ability in ABILITIES.items():
        easy = np.random.default_rng(9).normal(size=20000)
        rate = float(expit(ability + 1.5 * easy).mean())
        assert abs(equal[name]["rate"] - rate) < 3 * equal[name]["se"] < 0.25
    table = result.output.split("\n\n")[1].splitlines()
    assert table[0].split()[:4] == "model baseline at equal".split()
    assert all(line.split()[-1] == "3" for line in table[1:]) and len(table) == 4
    assert {row["models"] for row in found["at_equal_length"]} == {3}


def test_against_a_baseline_of_two_models_there_is_no_difficulty(tmp_path: Path) -> None:
    rows = [row for row in made(40) if row["generator_2"] != "good"]
    result = winrate(rows, tmp_path, "--equal-length")
    assert result.exit_code == 0, result.output
    table = result.output.split("\n\n")[1].splitlines()
    assert [line.split()[-1] for line in table[1:3]] == ["none", "none"]


def test_without_the_option_nothing_is_said_of_length(tmp_path: Path) -> None:
    result = winrate(made(5), tmp_path)
    assert result.exit_code == 0 and "length" not in result.output
    assert "at_equal_length" not in json.loads((tmp_path / "out" / "winrate.json").read_text())


def test_models_may_have_been_asked_different_instructions(tmp_path: Path) -> None:
    """And one twice: the second time is another instruction."""
    rows = [r for r in made(60) if r["generator_2"] != "good" or "1" in r["instruction"]]
    result = winrate([*rows, rows[0]], tmp_path, "--equal-length")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "winrate.json").read_text())["at_equal_length"]
    assert {row["model"]: row["reading"]["n"] for row in found} == {
        "plain": 61, "long": 60, "good": sum("1" in f"question {k}" for k in range(60)),
    }  # fmt: skip


def test_verdicts_without_answers_are_refused(tmp_path: Path) -> None:
    rows = made(3)
    del rows[4]["output_1"]
    with pytest.raises(UserError, match="--equal-length: verdicts on long against base need instr"):
        raise winrate(rows, tmp_path, "--equal-length").exception or AssertionError

"""A trained policy against the model it started from, by the judge's commands."""

from __future__ import annotations

import csv
import json

import pytest

from .conftest import Run, Workplace

pytestmark = pytest.mark.slow


def test_a_finished_run_meets_its_sft_model(first: Run, own: Workplace) -> None:
    """The win rate is that of the scores in answers.jsonl, and a second time nothing is generated."""
    arguments = ["judge", "compare", str(first.folder), "--with-sft", "--out", "judged"]
    said = own.run(*arguments).ok()
    out = own.folder / "judged"
    assert "scored by the run's n-gram oracle" in said.out
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text("utf-8").splitlines()]
    name = next(row["generator"] for row in rows if row["generator"] != "sft")
    pairs = {row["row"]: {} for row in rows}
    for row in rows:
        pairs[row["row"]][row["generator"]] = row["score"]
    won = [0.5 if p[name] == p["sft"] else float(p[name] > p["sft"]) for p in pairs.values()]
    cells = list(csv.DictReader((out / "win_pairs.csv").read_text("utf-8").splitlines()))
    rate = next(float(c["rate"]) for c in cells if c["row"] == name)
    assert rate == pytest.approx(sum(won) / len(won)) and len(won) >= 2
    before = (out / "generations.jsonl").read_bytes()
    own.run(*arguments).ok()
    assert (out / "generations.jsonl").read_bytes() == before


def test_the_reward_model_of_a_run_is_no_oracle_for_it(first: Run, own: Workplace) -> None:
    key = first.json("manifest.json")["parents"]["reward_model"]
    model = own.store / "reward_model" / key
    arguments = ["judge", "compare", str(first.folder), "--with-sft", "--oracle", str(model)]
    assert "was trained on it (reward_model" in own.run(*arguments).error()


def test_an_evaluation_is_exported(first: Run, own: Workplace) -> None:
    evaluation = str(first.folder / "evaluation.jsonl")
    own.run("judge", "export", evaluation, "--format", "alpaca_eval", "--out", "outputs").ok()
    outputs = json.loads((own.folder / "outputs" / "policy.json").read_text("utf-8"))
    rows = first.rows("evaluation.jsonl")
    assert [o["output"] for o in outputs] == [row["policy/response"] for row in rows]

"""Cells of models that learnt without rollouts: they have an evaluation, and no steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from paper_runs import write_stepless_cell, write_whole_cell
from tokencredit.errors import UserError
from tokencredit.papers.claims import judge_claims, read_claims, unused
from tokencredit.papers.conduct import conduct_table
from tokencredit.papers.entries import Panel
from tokencredit.papers.fairness import fairness_table, labelled_pairs
from tokencredit.papers.figure_data import figure_marks
from tokencredit.papers.formats import Runs
from tokencredit.papers.frontier import equal_kl_tables
from tokencredit.papers.held_out import held_out_table
from tokencredit.papers.kinds import find_any_figure, find_table
from tokencredit.papers.measures import STEPLESS, measure
from tokencredit.papers.on_the_way import over_optimisation
from tokencredit.papers.readings import readings_table
from tokencredit.papers.runs import read_csv
from tokencredit.papers.sources import Source, read_sources
from tokencredit.papers.verdicts import Verdict

ENDED = {"sft": 0.0, "dpo": 1.5, "figa": 0.75}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Three seeds of two methods with rollouts, and of three without."""
    for seed in range(3):
        for method, more in (("tlcr", 4.0), ("ppo_seq", 1.0)):
            gold = [0.0, 1.0, 2.0 + more + 0.1 * seed]
            write_whole_cell(
                tmp_path, method, seed, kl=[0.0, 3.0, 6.0], gold=gold, task="main",
                ends={"sft/oracle": 0.25},
            )  # fmt: skip
        for method, gold_of in ENDED.items():
            write_stepless_cell(
                tmp_path, method, seed, oracle=gold_of + seed / 4, win_rate=0.5, kl=gold_of,
                distinct_2=0.5, length=12.0,
            )  # fmt: skip
    (found,) = read_sources([tmp_path])
    return found


def runs_of(source: Source) -> Runs:
    return Runs(lambda _: [source], lambda _: [])


def test_a_cell_is_one_line_without_a_step_and_is_read_again(tmp_path: Path) -> None:
    path = write_stepless_cell(tmp_path, "dpo", 2, oracle=1.5, kl=3.0)
    with path.open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["method"], line["run"], line["seed"]) == ("dpo", "2", "2")
    assert (line["step"], line["mean_reward"], line["beta"]) == ("", "", "")
    (run,) = read_csv(path)
    assert run.stepless and len(run) == 0 and run.setting.beta is None
    assert run.origin.evaluation["policy/oracle"] == {"mean": 1.5, "se": 0.1, "n": 9}
    assert run.origin.made.stage_seed == 2 and run.origin.scored == 64


def test_a_run_that_failed_before_its_first_step_is_none_of_them(tmp_path: Path) -> None:
    path = write_stepless_cell(tmp_path, "dpo", 0, oracle=1.0)
    path.write_text(path.read_text().replace(",complete", ",failed"))
    (run,) = read_csv(path)
    assert len(run) == 0 and not run.stepless


def test_the_catalogues_table_has_their_numbers(source: Source) -> None:
    text = find_table("tlcr/table_main").made(runs_of(source), None).on_page()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    (dpo,) = (line for name, line in rows.items() if name.startswith("dpo"))
    assert dpo.split("|")[2].strip() == "3" and "1.750" in dpo
    (sft,) = (line for name, line in rows.items() if name.startswith("sft"))
    assert "0.250" in sft and "0.500" in sft, "by its own cells, win rate too"
    assert "main, FIGA:" not in text, "nothing is missing of it"


def test_a_page_shows_them_on_held_out_prompts(source: Source) -> None:
    rows = [line.split("|") for line in held_out_table(source, "main").splitlines()]
    dpo = next(row for row in rows if row[1:] and row[1].strip() == "dpo")
    assert dpo[4].strip() == "3" and "1.750" in "".join(dpo)


@pytest.mark.parametrize(
    ("name", "n", "difference"), [("over_dpo", 3, "4.350"), ("over_figa", 3, "5.100")]
)
def test_claims_about_them_are_judged(source: Source, name: str, n: int, difference: str) -> None:
    (claim,) = [claim for claim in read_claims("tlcr") if claim.name == name]
    (judged,) = judge_claims([claim], [source])
    assert judged.finding.data and judged.finding.n == n
    assert judged.finding.verdict is Verdict.supported and difference in judged.finding.text
    assert not [line for line in unused([judged], [source]) if "dpo" in line or "figa" in line]


def test_one_model_meets_every_run_of_its_stage_seed(tmp_path: Path) -> None:
    """Where a sweep goes over `seed` alone, as the SFT model does that the runs began with."""
    write_stepless_cell(tmp_path, "dpo", 0, oracle=1.0)
    for seed, gold in enumerate([2.0, 2.5, 3.0]):
        path = write_whole_cell(
            tmp_path, "tlcr", seed, kl=[0.0, 6.0], gold=[0.0, gold], task="main"
        ).with_suffix(".json")
        record = json.loads(path.read_text())
        record["seeds"]["stage_seed"] = 0
        for made in record["provenance"]["parents"].values():
            made["sha256"] = made["sha256"].rstrip("012")
        path.write_text(json.dumps(record))
    (claim,) = [claim for claim in read_claims("tlcr") if claim.name == "over_dpo"]
    (judged,) = judge_claims([claim], read_sources([tmp_path]))
    assert judged.finding.n == 3 and "1.500" in judged.finding.text


def test_what_is_over_steps_says_that_they_have_none(source: Source) -> None:
    dpo = [run for run in source.runs if run.setting.method == "dpo"]
    found = measure(dpo, Panel(task="main", points=5))
    assert not found.values and {why for _, why in found.without} == {STEPLESS}
    for table in (
        readings_table(source, "main", "ppo_seq"),
        equal_kl_tables(source, "main", "ppo_seq"),
    ):
        assert table.endswith("*Without steps, and so not here: dpo, figa, sft.*")
        assert "| dpo" not in table and "| tlcr" in table
    assert "dpo" not in over_optimisation(source, "main")


def test_nothing_is_said_where_all_have_steps(tmp_path: Path) -> None:
    for method in ("tlcr", "ppo_seq"):
        for seed in range(2):
            gold = [0.0, 1.0 + seed]
            write_whole_cell(tmp_path, method, seed, kl=[0.0, 3.0], gold=gold, task="main")
    (source,) = read_sources([tmp_path])
    assert "Without steps" not in readings_table(source, "main", "ppo_seq")


@pytest.mark.parametrize("name", ["tlcr/gold_frontier", "tlcr/on_the_way", "rto/figure3"])
def test_figures_over_steps_leave_them_out(source: Source, name: str) -> None:
    entry = find_any_figure(name)
    entry.methods = {"tlcr": "TLCR", "ppo_seq": "PPO_seq", "dpo": "DPO"}
    for panel in entry.panels:
        panel.task, panel.points = "main", 5
        panel.column = "kl" if name == "rto/figure3" else panel.column
    marks, said = figure_marks(entry, [source])
    assert {mark.method for mark in marks if mark.shape.value == "line"} == {"tlcr", "ppo_seq"}
    assert any("dpo" in line.lower() and STEPLESS in line for line in said)


def test_a_figure_of_them_alone_is_refused(tmp_path: Path) -> None:
    write_stepless_cell(tmp_path, "dpo", 0, oracle=1.0)
    entry = find_any_figure("rto/figure3")
    entry.methods = {"dpo": "DPO"}
    for panel in entry.panels:
        panel.task, panel.column = "main", "mean_reward"
    with pytest.raises(UserError, match="has no steps"):
        figure_marks(entry, read_sources([tmp_path]))


def test_what_they_were_given_is_told(source: Source, tmp_path: Path) -> None:
    table = fairness_table(source, "main", tmp_path, "ppo_seq")
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line[:1] == "|"}
    pairs = next(line for name, line in rows.items() if "labelled pairs" in name)
    assert "32" in pairs
    assert not [name for name in rows if "weights of policy" in name], "no scorer"
    assert "stage" not in table.rpartition("*Note")[2]
    dpo = next(run for run in source.runs if run.setting.method == "dpo")
    assert labelled_pairs(dpo) == 32
    assert "| dpo" in conduct_table(source, "main")

"""What methods began with and were given: by hand, with what differs, and what cells do not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paper_runs import write_whole_cell
from tokencredit.papers.fairness import fairness_table, labelled_pairs, tuning_budgets
from tokencredit.papers.sources import read_sources
from tokencredit.store.files import Damaged

TASK = "positive_generation"
KL, GOLD = [0.0, 1.0, 2.0], [0.0, 0.5, 1.0]
SPENT = {
    "optimizer_steps": 160,
    "response_tokens": 2000,
    "judge_calls": 160,
    "peak_memory_mb": 900.0,
}


def cells(folder: Path, method: str, seeds: int = 2, **more: Any) -> None:
    for seed in range(seeds):
        write_whole_cell(folder, method, seed, kl=KL, gold=GOLD, **{"spent": SPENT, **more})


def changed(path: Path, **provenance: Any) -> None:
    """A cell whose provenance says otherwise."""
    record = json.loads(path.with_suffix(".json").read_text())
    record["provenance"] |= provenance
    path.with_suffix(".json").write_text(json.dumps(record))


def table(folder: Path, baseline: str | None = None) -> tuple[dict[str, list[str]], str]:
    """Cells by the name of the row, the mark of a difference with it; and the whole text."""
    text = fairness_table(read_sources([folder])[0], TASK, folder, baseline)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in rows}, text


def test_methods_that_had_the_same(tmp_path: Path) -> None:
    cells(tmp_path, "abc")
    cells(tmp_path, "sparse")
    rows, text = table(tmp_path)
    assert rows[""] == ["abc", "sparse"]
    assert rows["seeds"] == ["2: 0–1"] * 2
    assert rows["prompts of training"] == ["prompts"] * 2
    assert rows["weights at first (SFT model)"] == ["2, by seed"] * 2, "sft0 and sft1"
    assert rows["weights of reward model"] == ["rm"] * 2 and rows["weights of oracle"] == ["or"] * 2
    assert rows["steps"] == ["10"] * 2 and rows["scored samples"] == ["160"] * 2
    assert rows["judge calls"] == rows["optimizer steps"] == ["160"] * 2
    assert rows["response tokens"] == ["2,000"] * 2 and rows["operations"] == ["1e+10"] * 2
    assert rows["wall time (s)"] == ["100"] * 2, "100 and 101 s are 100.5 s"
    assert rows["peak memory (MiB)"] == ["900"] * 2 and rows["labelled pairs"] == ["0"] * 2
    assert "All that the cells hold is the same for all methods." in text
    assert "No cell says: processor, tuning budget (steps)." in text


def test_what_differs_is_flagged_and_said(tmp_path: Path) -> None:
    """RTO has labelled 100 pairs, thus 200 answers more; its tokens are 5 % fewer, which is near."""
    cells(tmp_path, "sparse")
    fewer = {**SPENT, "response_tokens": 1900, "judge_calls": 320}
    cells(tmp_path, "rto", scored=360, parents={"dpo": "d"}, spent=fewer, seeds=3)
    rows, text = table(tmp_path, "sparse")
    assert rows[""] == ["sparse", "rto"], "the baseline first"
    assert rows["⚠ scored samples"] == ["160", "360"] and rows["⚠ labelled pairs"] == ["0", "100"]
    assert rows["⚠ judge calls"] == ["160", "320"] and rows["response tokens"] == ["2,000", "1,900"]
    assert rows["⚠ seeds"] == ["2: 0–1", "3: 0–2"]
    assert rows["weights at first (SFT model)"] == ["2, by seed", "3, by seed"], "as far as both go"
    assert "**Not the same for all methods:** seeds (sparse: 2: 0–1; rto: 3: 0–2); scored" in text
    assert "labelled pairs (sparse: 0; rto: 100)" in text


def test_other_weights_or_prompts_in_one_seed_are_flagged(tmp_path: Path) -> None:
    cells(tmp_path, "abc")
    cells(tmp_path, "sparse")
    changed(tmp_path / "abc1.csv", fingerprints={"rl": "others", "eval": "held out"})
    write_whole_cell(tmp_path, "sparse", 0, kl=KL, gold=GOLD, spent=SPENT, parents={"sft": "else"})
    rows, _ = table(tmp_path)
    assert rows["⚠ prompts of training"] == ["2, by seed", "prompts"]
    assert rows["⚠ weights at first (SFT model)"] == ["2, by seed", "2, by seed"]
    assert "prompts of evaluation" in rows


def test_scorers_of_other_seeds_are_compared_by_what_they_are(tmp_path: Path) -> None:
    write_whole_cell(tmp_path, "abc", 0, kl=KL, gold=GOLD)
    write_whole_cell(tmp_path, "sparse", 1, kl=KL, gold=GOLD, parents={"reward_model": "another"})
    rows, _ = table(tmp_path)
    assert rows["⚠ weights of reward model"] == ["rm", "another"]
    assert rows["weights of oracle"] == ["or", "or"]


def test_cells_of_before_have_dashes_and_are_not_said_to_differ(tmp_path: Path) -> None:
    cells(tmp_path, "abc")
    cells(tmp_path, "sparse", on_the_way=False)
    rows, text = table(tmp_path)
    assert rows["judge calls"] == ["160", "–"] and rows["peak memory (MiB)"] == ["900", "–"]
    assert rows["scored samples"] == ["160", "160"], "which follows from how they were made"
    assert "All that the cells hold is the same" in text
    assert "judge calls" not in text.partition("No cell says")[2]


def test_a_mean_of_some_runs_says_of_how_many(tmp_path: Path) -> None:
    cells(tmp_path, "sparse")
    write_whole_cell(tmp_path, "abc", 0, kl=KL, gold=GOLD, spent=SPENT)
    write_whole_cell(tmp_path, "abc", 1, kl=KL, gold=GOLD, on_the_way=False)
    changed(tmp_path / "abc1.csv", fingerprints={})
    rows, _ = table(tmp_path)
    assert rows["judge calls"] == ["160 (1)", "160"]
    assert rows["prompts of training"] == ["prompts (1 of 2)", "prompts"]


def test_one_method_is_no_comparison(tmp_path: Path) -> None:
    cells(tmp_path, "abc")
    assert "not yet two methods" in table(tmp_path)[1]


def pilots(folder: Path, *rows: str, head: str = "method,point,round,seed,steps") -> None:
    (folder / "tuning").mkdir(exist_ok=True)
    (folder / "tuning" / "cpu.csv").write_text("\n".join([head, *rows]) + "\n")


def test_the_budget_of_tuning_by_hand(tmp_path: Path) -> None:
    """ABC: 40 steps of point b; 100 of a, of which the first 40 were those of round 1; 100 of another
    seed. The sparse reward's grid has one point less. Shuffled credit has no grid."""
    for method in ("abc", "sparse", "shuffled"):
        cells(tmp_path, method)
    pilots(
        tmp_path,
        *("abc,a,1,100,40", "abc,b,1,100,40", "abc,a,2,100,100", "abc,a,2,101,100"),
        *("sparse,a,1,100,40", "sparse,a,2,100,100"),
    )
    source = read_sources([tmp_path])[0]
    assert tuning_budgets(source.of(TASK), tmp_path) == [240, None, 100]
    rows, text = table(tmp_path)
    assert rows["⚠ tuning budget (steps)"] == ["240", "–", "100"]
    assert "tuning budget (steps) (abc: 240; sparse: 100)" in text
    pilots(
        tmp_path,
        "abc,1,100,40",
        "abc,2,100,100",
        "sparse,1,100,140",
        head="method,round,seed,steps",
    )
    assert table(tmp_path)[0]["tuning budget (steps)"] == ["140", "–", "140"], (
        "no points: every row"
    )


@pytest.mark.parametrize(
    ("row", "said"), [("abc,a,1,100,", "line 2: steps: needed"), ("abc,a,1,100,x", "steps = 'x'")]
)
def test_damaged_pilots_are_named(tmp_path: Path, row: str, said: str) -> None:
    cells(tmp_path, "abc")
    cells(tmp_path, "sparse")
    pilots(tmp_path, row)
    with pytest.raises(Damaged, match=said):
        table(tmp_path)


def test_pairs_follow_from_scored_samples(tmp_path: Path) -> None:
    path = write_whole_cell(tmp_path, "rto", 0, kl=KL, gold=GOLD, scored=488, parents={"dpo": "d"})
    (run,) = read_sources([path])[0].runs
    assert labelled_pairs(run) == 164
    record = json.loads(path.with_suffix(".json").read_text())
    algorithm = record["provenance"]["identity"]["inputs"]["algorithm"]
    algorithm |= {"normalise": "reference", "normalise_samples": 128}
    path.with_suffix(".json").write_text(json.dumps(record))
    assert labelled_pairs(read_sources([path])[0].runs[0]) == 100
    del record["provenance"]["identity"]
    path.with_suffix(".json").write_text(json.dumps(record))
    assert labelled_pairs(read_sources([path])[0].runs[0]) is None

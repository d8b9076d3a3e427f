"""Four readings of one comparison: by hand, where they disagree, and of cells that lack columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paper_runs import write_whole_cell
from tokencredit.errors import UserError
from tokencredit.papers.frontier import frontier
from tokencredit.papers.on_the_way import at_kl, at_step, course, gold_reach, over_optimisation
from tokencredit.papers.readings import KL, OPERATIONS, SAMPLES, STEPS, readings, readings_table
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.sources import read_sources

TASK = "positive_generation"
NUDGES = (-0.02, 0.0, 0.01, 0.02)
"""What sets the gold scores of four seeds apart."""
Groups = dict[str, list[LoggedRun]]


def cells(folder: Path, method: str, fast: float, gold: float, **more: Any) -> None:
    """Four seeds of 20 steps; `fast` nats and `gold` more of the gold score every five steps."""
    for seed, nudge in enumerate(NUDGES):
        # Which seed is lucky differs between methods, so pairing does not help.
        shift = nudge if method == "sparse" else NUDGES[(seed * 3 + 1) % 4]
        kl = [fast * k for k in range(5)]
        write_whole_cell(
            folder, method, seed, kl=kl, gold=[k * (gold + shift) for k in range(5)], **more
        )


def groups(folder: Path) -> Groups:
    found: Groups = {}
    for setting, runs in read_sources([folder])[0].of(TASK).items():
        found[setting.method] = runs
    return found


@pytest.fixture
def faster(tmp_path: Path) -> Path:
    """ABC goes twice as far in a step and gains 1.5 times as much: ahead in steps, behind in KL.

    It needs twice the operations of a step.
    """
    cells(tmp_path, "abc", 6.0, 0.45, flops=2e9)
    cells(tmp_path, "sparse", 3.0, 0.3)
    return tmp_path


def test_by_hand(faster: Path) -> None:
    """Mean gains every five steps are 0.4525 and 0.3025. At 20 steps 4 × 0.15. At 10 nats ABC has
    10/6 of its gains, sparse 10/3. With half of ABC's operations it has taken ten steps: two gains
    against four."""
    found = groups(faster)
    by_name = readings(found["abc"], found["sparse"])
    at = {name: x.difference.interval.mean for name, x in by_name.items() if x is not None}
    assert at[STEPS] == pytest.approx(4 * 0.15)
    assert at[SAMPLES] == pytest.approx(4 * 0.15), "as many samples in each step"
    assert at[KL] == pytest.approx(0.4525 * 10 / 6 - 0.3025 * 10 / 3)
    assert at[OPERATIONS] == pytest.approx(2 * 0.4525 - 4 * 0.3025)
    where = {name: x.where for name, x in by_name.items() if x is not None}
    assert where == {
        STEPS: "",
        KL: "10 nats",
        SAMPLES: "320 samples",
        OPERATIONS: "2e+10 operations",
    }
    decided = {name: x.difference.decided for name, x in by_name.items() if x is not None}
    assert decided == {STEPS: 1, KL: -1, SAMPLES: 1, OPERATIONS: -1}
    assert not any(x.difference.paired for x in by_name.values() if x is not None)


def test_a_level_that_was_named_before_the_runs(faster: Path) -> None:
    """At 5 nats ABC has 5/6 of its gains, sparse 5/3; to 15 nats sparse never comes."""
    found, source = groups(faster), read_sources([faster])[0]
    reading = readings(found["abc"], found["sparse"], 5)[KL]
    assert reading is not None and reading.where == "5 nats"
    assert reading.difference.interval.mean == pytest.approx(0.4525 * 5 / 6 - 0.3025 * 5 / 3)
    assert readings(found["abc"], found["sparse"], 15)[KL] is None
    assert "has 5 nats; all levels" in readings_table(source, TASK, "sparse", level=5)
    named = readings_table(source, TASK, "sparse", primary="abc", level=5)
    assert "has 5 nats, named before the runs; all levels" in named
    with pytest.raises(UserError, match=r"level = 7: must be one of 2, 5, 10, 15 nats"):
        readings_table(source, TASK, "sparse", level=7)


def test_the_table_says_where_the_readings_disagree(faster: Path) -> None:
    text = readings_table(read_sources([faster])[0], TASK, "sparse")
    assert (
        "- **The readings disagree on abc**: higher at equal steps and equal scored samples, lower "
        "at equal KL and equal operations; by the primary reading, equal KL, it is lower."
    ) in text
    assert "**Primary is the reading at equal KL.**" in text
    rows = [line for line in text.splitlines() if line.startswith("| abc")]
    summary, levels = ([x.strip() for x in row.split("|")[1:-1]] for row in rows)
    assert summary[:4] == ["abc", "0.8", "8–16", "4"]
    # sd 4 · 0.01708, so se 0.0483 of the difference; ± 2.447 of it at six degrees
    assert summary[4].startswith("+0.600 [+0.482, +0.718] (r = ")
    # effects of 5.6 and 8.8 standard deviations
    assert "10 nats" in summary[5] and summary[-2:] == ["3", "2"]
    assert [x == "–" for x in levels[3:]] == [False, False, False, True], "sparse ends at 12 nats"


def test_readings_that_agree_are_said_to(tmp_path: Path) -> None:
    cells(tmp_path, "abc", 3.0, 0.45)
    cells(tmp_path, "sparse", 3.0, 0.3)
    text = readings_table(read_sources([tmp_path])[0], TASK, "sparse")
    assert "agree on abc (higher)." in text and "disagree" not in text


def test_one_that_decides_and_one_that_does_not_disagree(tmp_path: Path) -> None:
    """In proportion to KL both gain 0.1 a nat, but ABC goes further."""
    cells(tmp_path, "abc", 4.0, 0.4)
    cells(tmp_path, "sparse", 3.0, 0.3)
    text = readings_table(read_sources([tmp_path])[0], TASK, "sparse")
    assert "not decided at equal KL; the primary reading, equal KL, does not decide" in text
    (row, _) = [line for line in text.splitlines() if line.startswith("| abc")]
    assert int(row.split("|")[-3].replace(",", "")) > 20, "seeds that a small difference asks for"


def test_a_baseline_is_shown_by_beta_and_the_declared_comparison_is_not_corrected(
    tmp_path: Path,
) -> None:
    for method, gold in (("abc", 0.32), ("uniform", 0.33), ("sparse", 0.3)):
        cells(tmp_path, method, 3.0, gold)
    source = read_sources([tmp_path])[0]

    def p_values(primary: str | None) -> dict[str, float]:
        text = readings_table(source, TASK, "sparse", primary=primary)
        rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
        return {row[1].strip(): float(row[9]) for row in rows[1:3]}

    plain, declared = p_values(None), p_values("abc")
    assert plain["uniform"] == pytest.approx(2 * declared["uniform"], rel=0.1)
    assert plain["abc"] >= declared["abc"]
    assert "for abc, the comparison declared" in readings_table(source, TASK, "sparse", None, "abc")
    assert "nothing to compare" in readings_table(source, TASK, "sparse", beta=0.5)


def test_labelled_pairs_count_before_the_first_step(tmp_path: Path) -> None:
    """100 answers were labelled for ABC: at 320 samples it has taken 220/16 = 13.75 steps."""
    cells(tmp_path, "abc", 3.0, 0.45, scored=420, parents={"dpo": "d"})
    cells(tmp_path, "sparse", 3.0, 0.3)
    found = groups(tmp_path)
    reading = readings(found["abc"], found["sparse"])[SAMPLES]
    assert reading is not None and reading.where == "320 samples"
    assert reading.difference.interval.mean == pytest.approx(0.4525 * 2.75 - 0.3025 * 4)


def test_who_labels_more_than_the_other_scores_has_no_reading(tmp_path: Path) -> None:
    cells(tmp_path, "abc", 3.0, 0.45, scored=4320, parents={"dpo": "d"})
    cells(tmp_path, "sparse", 3.0, 0.3)
    found = groups(tmp_path)
    assert readings(found["abc"], found["sparse"])[SAMPLES] is None
    assert readings(found["abc"], found["sparse"])[STEPS] is not None


def test_cells_without_evaluations_on_the_way_have_dashes(tmp_path: Path) -> None:
    """Equal steps and equal samples are the end of both; the others ask how a run came there."""
    cells(tmp_path, "abc", 6.0, 0.45, on_the_way=False, flops=1e9)
    cells(tmp_path, "sparse", 3.0, 0.3, on_the_way=False, flops=2e9)
    found = groups(tmp_path)
    by_name = readings(found["abc"], found["sparse"])
    assert [name for name, x in by_name.items() if x is None] == [KL, OPERATIONS]
    ends = [by_name[name] for name in (STEPS, SAMPLES)]
    assert [x.difference.interval.mean for x in ends if x] == pytest.approx([0.6, 0.6])
    assert over_optimisation(read_sources([tmp_path])[0], TASK) == ""
    assert frontier(found["abc"], gold=True) == ([], [])


def test_a_run_that_failed_counts_as_far_as_it_came(tmp_path: Path) -> None:
    cells(tmp_path, "abc", 6.0, 0.45)
    cells(tmp_path, "sparse", 3.0, 0.3)
    write_whole_cell(tmp_path, "abc", 9, kl=[0.0, 6.0], gold=[0.0, 0.1], status="failed")
    found = groups(tmp_path)
    by_name = readings(found["abc"], found["sparse"])
    steps, kl = by_name[STEPS], by_name[KL]
    assert steps is not None and steps.counts == (4, 4) and steps.of == (5, 4)
    assert "4 and 4 runs" in steps.text()
    assert kl is not None and kl.where == "10 nats" and kl.counts == (4, 4)
    assert at_kl(found["abc"][-1], 5.0) == pytest.approx(0.1 * 5 / 6), "but at 5 nats it is there"


def test_the_course_of_a_run(tmp_path: Path) -> None:
    """Gold 0, 1, 3 after 0, 5, 10 steps, at 0, 4, 6 nats."""
    path = write_whole_cell(tmp_path, "abc", 0, kl=[0.0, 4.0, 6.0], gold=[0.0, 1.0, 3.0])
    (run,) = read_sources([path])[0].runs
    assert course(run, "oracle") == ([0, 5, 10], [0, 1, 3])
    assert at_step(run, 7.5) == 2 and at_step(run, 10.5) is None
    assert at_kl(run, 5.0) == 2 and at_kl(run, 6.5) is None and gold_reach(run) == 6
    record = json.loads(path.with_suffix(".json").read_text())
    for name in ("step", "oracle", "kl", "score", "distinct_2"):
        record["on_the_way"][name].pop()
    path.with_suffix(".json").write_text(json.dumps(record))
    (run,) = read_sources([path])[0].runs
    assert course(run, "oracle") == ([0, 5, 10], [0, 1, 3]), "the end is that of the evaluation"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"step": [0, 5, 5]}, "step: must rise"), ({"oracle": [1.0]}, "oracle: 1 values for 3 steps")],
)
def test_damaged_courses_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write_whole_cell(tmp_path, "abc", 0, kl=[0.0, 4.0, 6.0], gold=[0.0, 1.0, 3.0])
    record = json.loads(path.with_suffix(".json").read_text())
    record["on_the_way"] |= change
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=said):
        course(read_sources([path])[0].runs[0], "oracle")


def test_the_band_of_gold_scores(faster: Path) -> None:
    """ABC gains 0.4525 in six nats on average; all four runs come to 24."""
    levels, there = frontier(groups(faster)["abc"], gold=True)
    assert levels[-1] == pytest.approx(24) and {x.n for x in there} == {4}
    assert there[-1].mean == pytest.approx(4 * 0.4525)
    assert there[-1].low < there[-1].mean < there[-1].high


def test_over_optimisation_in_words(tmp_path: Path) -> None:
    """The gold score is 1 and 2 at step 5, 0 and 2 at step 10; the paid score rises by 1."""
    for seed, gold in enumerate(([0.0, 1.0, 0.0], [0.0, 2.0, 2.0])):
        write_whole_cell(tmp_path, "abc", seed, kl=[0, 1, 2], gold=gold, paid=[0.0, 1.0, 2.0])
        write_whole_cell(tmp_path, "sparse", seed, kl=[0, 1, 2], gold=[0.0, 1.0, 2.0])
        write_whole_cell(
            tmp_path, "uniform", seed, kl=[0, 1, 2], gold=[0.0, 1.0, 0.5], paid=[0.0, 2.0, 1.0]
        )
        paid = [0.0, 1.0, 2.0 * seed]
        write_whole_cell(tmp_path, "abc_d", seed, kl=[0, 1, 2], gold=[0.0, 1.0, 0.5], paid=paid)
    said = over_optimisation(read_sources([tmp_path])[0], TASK)
    assert (
        "- abc (2 runs): the gold score is highest at step 5 of 10 (1.500; to "
        "the end -0.500 [-6.853, +5.853]), while the paid score still rose (+1.000 [+1.000, +1.000])."
    ) in said
    assert "- sparse (2 runs): the gold score is highest at step 10 of 10" in said
    assert "its last evaluation (2.000)." in said
    assert "and the paid score fell too (-1.000 [-1.000, -1.000])." in said
    unknown = "and whether the paid score still rose cannot be told (+0.000 [-12.706, +12.706])."
    assert "- abc_d (2 runs): the gold score is highest at step 5 of 10 (1.000; to " in said
    assert unknown in said

"""The method table: by hand, and a dash where cells do not hold it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paper_runs import lines, write_csv
from tokencredit.papers.conduct import conduct_table, operations, scored, scored_before
from tokencredit.papers.provenance import Made
from tokencredit.papers.runs import LoggedRun, Origin, Setting
from tokencredit.papers.sources import Source, read_sources

SETTING = Setting("t", "abc", 0.8, (8, 16))
ALGORITHM = {"class": "PPO", "batch_size": 16, "normalise": "none"}


def run(number: int, **columns: list[float]) -> LoggedRun:
    known = {"mean_reward": [0.0, 0.0], **columns}
    return LoggedRun(SETTING, number, "complete", known, Origin(Path("x")))


def cells_of(text: str) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]


def test_by_hand() -> None:
    logged = [
        run(0, clip_fraction=[0.2, 0.4], explained_variance=[0.0, 0.5], flops=[1e9, 2e9]),
        run(1, clip_fraction=[0.1, 0.1], return_sd=[1.5, 2.5], kl_share=[0.0, 0.25]),
    ]
    row = cells_of(conduct_table(Source("s", logged), "t"))
    assert row[:4] == ["abc", "0.8", "8–16", "2"]
    # clipped: (0.3 + 0.1) / 2; the others are of one run each
    assert row[4:7] == ["–"] * 3, "nothing was measured on held-out prompts"
    assert row[7:11] == ["20%", "0.25 (1)", "2.00 (1)", "12% (1)"]
    assert row[11:] == ["–", "–", "–", "3e+09 (1)"]


def test_what_was_measured_on_held_out_prompts() -> None:
    """Gold scores 1 and 2: ± 12.706 · ½; one run of three failed and has none."""

    def evaluated(number: int, **values: float) -> LoggedRun:
        evaluation = {f"policy/{name}": {"mean": value} for name, value in values.items()}
        return replace(run(number), origin=Origin(Path("x"), evaluation=evaluation))

    known = {"score": 0.5, "distinct_2": 0.75, "length": 12.0}
    logged = [evaluated(0, oracle=1.0, kl=4.0, **known), evaluated(1, oracle=2.0, **known), run(2)]
    row = cells_of(conduct_table(Source("s", logged), "t"))
    gold, paid, kl = row[4:7]
    assert gold == "1.500 [-4.853, 7.853] (2)" and kl == "4.000 (1)"
    assert paid == "0.500 [0.500, 0.500] (2)"
    assert row[11:13] == ["0.750 (2)", "12.000 (2)"]


def test_cells_that_hold_nothing_have_dashes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", lines("abc", 0, [0.0] * 5))
    row = cells_of(conduct_table(read_sources([path])[0], "positive_generation"))
    assert row[4:] == ["–"] * 11


def test_scored_samples_are_said_or_follow_from_the_identity() -> None:
    def of(**changes: object) -> float | None:
        identity = {"inputs": {"algorithm": {**ALGORITHM, **changes}}, "parents": {"sft": "a"}}
        return scored(replace(run(0), origin=Origin(Path("x"), made=Made(identity))))

    assert of() == 32
    assert of(normalise="reference") is None and of(**{"class": "ReMax"}) is None
    with_pairs = {"inputs": {"algorithm": ALGORITHM}, "parents": {"dpo": "b"}}
    unknown = replace(run(0), origin=Origin(Path("x"), made=Made(with_pairs)))
    assert scored(unknown) is None
    assert scored(replace(unknown, origin=replace(unknown.origin, scored=4032))) == 4032
    assert scored(run(0)) is None


def test_operations_are_those_of_all_steps() -> None:
    assert operations(run(0, flops=[1.0, 2.5])) == 3.5
    assert operations(run(0)) is None


def test_samples_before_the_first_step_and_in_each() -> None:
    """Two steps of 16; 4,000 answers of a DPO model's pairs; half as many greedy answers beside."""

    def of(total: int | None, **changes: object) -> tuple[float, float] | None:
        identity = {"inputs": {"algorithm": {**ALGORITHM, **changes}}, "parents": {"dpo": "b"}}
        made = Made(identity if changes or total else None)
        return scored_before(replace(run(0), origin=Origin(Path("x"), made=made, scored=total)))

    assert of(32) == (0, 16) and of(4032) == (4000, 16)
    assert of(4048, **{"class": "ReMax", "samples_per_prompt": 2}) == (4000, 24)
    assert of(20) is None, "fewer than its steps have scored"
    assert of(None) is None
    bare = replace(run(0), origin=Origin(Path("x"), scored=64))
    assert scored_before(bare) == (0, 32), "as many in each step, where nothing is known of it"

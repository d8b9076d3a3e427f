"""How runs were trained, as a table: by hand, and a dash where cells do not hold it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paper_runs import lines, write_csv
from tokencredit.papers.page import conduct_table, operations, scored
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
    assert row[4:8] == ["20%", "0.25 (1)", "2.00 (1)", "12% (1)"]
    assert row[8:] == ["–", "3e+09 (1)"]


def test_cells_that_hold_nothing_have_dashes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", lines("abc", 0, [0.0] * 5))
    row = cells_of(conduct_table(read_sources([path])[0], "positive_generation"))
    assert row[4:] == ["–"] * 6


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

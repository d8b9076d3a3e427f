"""Runs and samples as rows: what differs, what is asked for, and data frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tokencredit
from paper_runs import write_run_folder
from tokencredit.errors import UserError

SAMPLE = {"step": 0, "row": 3, "prompt": "a", "response": " b", "score": 1.0, "tokens": [" b"], "rewards": [1.0]}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs of abc, and one of sparse that is not complete."""
    for seed in (0, 1):
        path = tmp_path / "abc" / f"{seed}"
        write_run_folder(path, [0.1, 0.2], key=f"{seed:016x}", seed=seed)
        if seed == 0:
            results = json.loads((path / "results.json").read_text())
            measure = {"mean": 0.2, "se": 0.1}
            results["metrics"] = {"score/mean": measure}
            results["evaluation"] = {"policy/score": measure, "sft/score": {**measure, "mean": 0.1}}
            (path / "results.json").write_text(json.dumps(results))
    write_run_folder(tmp_path / "sparse", [0.3], key="b" * 16, scheme="sparse", finished=False)
    return tmp_path


def test_a_row_has_numbers_and_the_keys_that_differ(folder: Path) -> None:
    first, second, other = tokencredit.runs(folder)
    assert [row["folder"] for row in (first, second, other)] == [
        str(folder / name) for name in ("abc/0", "abc/1", "sparse")
    ]
    assert first["last/score/mean"] == 0.2 and first["evaluation/gain/score"] == pytest.approx(0.1)
    assert (first["key"], first["status"], other["status"]) == ("0" * 16, "complete", "running")
    assert (first["reward_scheme.beta"], other["reward_scheme.beta"]) == (0.8, None)
    assert "rollout.min_new_tokens" not in first  # all have the same


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({"scheme": "abc"}, 2),
        ({"scheme": ["abc", "sparse"], "seed": 0}, 2),
        ({"reward_scheme.beta": 0.8, "seed": 1}, 1),
        ({"rollout.min_new_tokens": 8}, 3),
        ({"status": "failed"}, 0),
    ],
)
def test_runs_are_chosen_by_columns_and_keys(
    folder: Path, where: dict[str, Any], count: int
) -> None:
    assert len(tokencredit.runs(folder, where)) == count


def test_what_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'scheme'"):
        tokencredit.runs(folder, {"schema": "abc"})
    with pytest.raises(UserError, match="there is no such folder"):
        tokencredit.runs(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no runs"):
        tokencredit.runs(tmp_path / "empty")
    with pytest.raises(UserError, match=r"has no samples\.jsonl"):
        tokencredit.samples(folder / "sparse")


def test_samples_are_the_rows_of_the_log(folder: Path) -> None:
    (folder / "sparse" / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    assert tokencredit.samples(folder / "sparse") == [SAMPLE]


def test_a_frame_needs_pandas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tokencredit.runs(folder)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'tokencredit\[notebook\]'"):
        found.frame()


def test_a_frame_has_a_line_for_each_row(folder: Path) -> None:
    pytest.importorskip("pandas")
    frame = tokencredit.runs(folder).frame()
    assert list(frame["seed"]) == [0, 1, 0] and frame["last/score/mean"].isna().sum() == 2

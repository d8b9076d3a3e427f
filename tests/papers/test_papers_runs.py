"""Runs as tables read them: CSVs in the authors' format, folders of them, folders of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paper_runs import HEAD, lines, write_csv, write_run_folder
from tokencredit.errors import UserError
from tokencredit.papers.runs import Setting, read_csv, read_runs


def test_a_csv_by_hand(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "runs.csv",
        lines("rlhf", 2, [1.0, 2.0], kl=[0.0, 0.5]),
        lines("abcde2", 1, [3.0], status="failed"),
    )
    first, second = read_csv(path)
    assert first.setting == Setting("positive_generation", "sparse", 0.8, (8, 16))
    assert (first.run, first.status, len(first)) == (2, "complete", 2)
    assert first.columns == {"mean_reward": [1.0, 2.0], "kl": [0.0, 0.5]}
    assert second.setting.method == "abc_d2" and second.status == "failed"
    assert "kl" not in second.columns


def test_exactly_the_first_points_or_none(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", lines("abc", 1, [1.0, 2.0, float("nan")]))
    (run,) = read_csv(path)
    assert run.first(2) == [1.0, 2.0]
    assert run.first(3) is None and run.first(4) is None
    assert run.first(1, "kl") is None


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", reversed(lines("abc", 1, [1.0, 2.0, 3.0])))
    (run,) = read_csv(path)
    assert list(run.columns["mean_reward"]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (["t,abc,,8,16,1,0,1", "t,abc,,8,16,1,0,1"], ["run 1", "step 0 is there twice"]),
        (["t,abc,,8,16,1,0,1", "t,abc,,8,16,1,2,1"], ["step 2 follows 0"]),
        (["t,abc,,8,16,1,1,1"], ["step 1 follows -1", "count from 0"]),
        (["t,abc,,8,16,1,0,high"], ["run 1", "'high'"]),
        (["t,abc,much,8,16,1,0,1"], ["line 2", "'much'"]),
        (["t,abc,,8,16,1,0,"], ["mean_reward is empty"]),
    ],
)
def test_what_a_csv_may_not_hold(tmp_path: Path, rows: list[str], named: list[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    with pytest.raises(UserError) as caught:
        read_csv(path)
    for part in [*named, "runs.csv"]:
        assert part in str(caught.value)


def test_a_csv_without_a_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("task,method,step\n")
    with pytest.raises(UserError, match=r"runs\.csv: lacks the columns beta, max_new_tokens, mean"):
        read_runs(path)


def test_folders_of_runs_and_of_csvs(tmp_path: Path) -> None:
    write_run_folder(tmp_path / "runs" / "abc" / "x" / "k1", [1.0, 2.0], seed=3)
    write_run_folder(
        tmp_path / "runs" / "sparse" / "k2", [0.5], scheme="sparse", experiment=None, key="b" * 16
    )
    write_run_folder(tmp_path / "runs" / "k3", [4.0], finished=False, seed=5, key="d" * 16)
    found = {run.run: run for run in read_runs(tmp_path / "runs")}
    assert found[3].setting == Setting("positive_generation", "abc", 0.8, (8, 16))
    assert found[3].columns["value_loss"] == [0.5, 0.5]
    assert (found[3].origin.scale, found[3].origin.model) == ("cpu", "tiny")
    assert found[0].setting == Setting("imdb", "sparse", None, (8, 16))
    assert found[0].origin.scale == "", "outside an experiment a scale means nothing"
    assert found[5].status == "running"
    (tmp_path / "csvs").mkdir()
    (tmp_path / "csvs" / "other.csv").write_text("a,b\n1,2\n")
    write_csv(tmp_path / "csvs" / "deep" / "r.csv", lines("abc", 1, [1.0]))
    assert len(read_runs(tmp_path / "csvs")) == 1
    assert len(read_runs(tmp_path / "runs" / "k3")) == 1


def test_pilot_runs_of_a_tuning_are_left_out_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They have a method's name and its seeds, and chose its settings."""
    runs = tmp_path / "runs"
    write_run_folder(runs / "cell", [1.0])
    pilot = write_run_folder(runs / "pilot", [9.0], key="b" * 16)
    config = json.loads((pilot / "config.yaml").read_text())
    config["run"]["job_type"] = "pilot"
    (pilot / "config.yaml").write_text(json.dumps(config))
    (found,) = read_runs(runs)
    assert list(found.columns["mean_reward"]) == [1.0]
    assert "pilot runs left out: 1;" in capfd.readouterr().err
    (asked,) = read_runs(pilot)
    assert list(asked.columns["mean_reward"]) == [9.0] and not capfd.readouterr().err


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_no_runs_is_a_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"--runs .*{place}"):
        read_runs(tmp_path / place)

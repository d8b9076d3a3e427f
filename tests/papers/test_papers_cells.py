"""Cells as files: the columns of the authors' logs, every run, also one that failed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from paper_runs import write_run_folder
from tokencredit.papers.cells import COLUMNS, ON_THE_WAY, write_cell
from tokencredit.papers.figure_data import WAY_COLUMNS
from tokencredit.papers.on_the_way import course
from tokencredit.papers.runs import read_csv, read_runs
from tokencredit.store.run_folder import RunFolder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cell_by_hand(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [1.0, 3.0], key="0123", seed=4)
    path = write_cell(run, tmp_path / "cells", "task", {"processor": "x"})
    assert path == tmp_path / "cells" / "0123.csv"
    text = path.read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert text.splitlines()[2] == "task,abc,0.8,8,16,4,1,3.0,6.0,0.5,4,complete"
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["config_hash"] == "0123" and record["provenance"] == {"processor": "x"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["0123.csv", "0123.json"]


def test_an_algorithm_without_values_leaves_its_column_empty(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [1.0], value_loss=False, scheme="sparse")
    (row,) = rows(write_cell(run, tmp_path / "cells", "task"))
    assert row["value_loss"] == "" and row["kl"] == "2.0" and row["beta"] == ""


def test_a_failed_run_is_a_cell_too(tmp_path: Path) -> None:
    why = "step 2: the loss is nan"
    run = write_run_folder(tmp_path / "run", [1.0, -9.0], failed=why, finished=False)
    path = write_cell(run, tmp_path / "cells", "task")
    assert [row["status"] for row in rows(path)] == ["failed", "failed"]
    record = json.loads(path.with_suffix(".json").read_text())
    assert (record["status"], record["error"], record["steps"]) == ("failed", why, 2)


def test_a_run_that_failed_in_its_first_step_has_one_row_without_a_step(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [], failed="step 0: the loss is nan", finished=False)
    (run / "metrics.jsonl").unlink()
    path = write_cell(run, tmp_path / "cells", "task")
    (row,) = rows(path)
    assert (row["step"], row["mean_reward"], row["status"]) == ("", "", "failed")
    (read,) = read_csv(path)
    assert (len(read), read.status, read.first(1)) == (0, "failed", None)


def test_steps_beyond_the_results_are_not_part_of_them(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [1.0, 2.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "score/mean": 9.0}\n')
    assert len(rows(write_cell(run, tmp_path / "cells", "task"))) == 2


def test_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [1.0], finished=False)
    assert RunFolder(run).record()["status"] == "running"


def test_an_implicit_reward_is_a_column_of_its_own(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [1.0, 2.0], scheme="rto")
    noted = [{"step": k, "score/mean": 1.0, "judge/implicit_reward": k / 4} for k in (0, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in noted))
    path = write_cell(run, tmp_path / "cells", "task")
    assert [row["implicit_reward"] for row in rows(path)] == ["0.0", "0.25"]
    (cell,) = read_csv(path)
    (folder,) = read_runs(run)
    assert cell.columns["implicit_reward"] == folder.columns["implicit_reward"] == [0.0, 0.25]


def test_evaluations_on_the_way_end_with_that_of_the_finished_run(tmp_path: Path) -> None:
    run = write_run_folder(tmp_path / "run", [1.0, 2.0, 3.0])
    logged = [
        {"step": k, "score/mean": 1.0}
        | ({"eval/score": k / 2, "eval/kl": k + 0.5, "eval/oracle": -k} if k % 2 == 0 else {})
        for k in range(4)  # the last is beyond what the results speak of
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    results = json.loads((run / "results.json").read_text())
    last = {"score": 7.0, "kl": 8.0, "oracle": 9.0}
    results["evaluation"] = {
        f"policy/{name}": {"mean": value, "se": 0.0, "n": 2} for name, value in last.items()
    }
    (run / "results.json").write_text(json.dumps(results))
    columns = {
        "step": [0.0, 2.0, 3.0],
        "score": [0.0, 1.0, 7.0],
        "kl": [0.5, 2.5, 8.0],
        "oracle": [0.0, -2.0, 9.0],
    }
    path = write_cell(run, tmp_path / "cells", "task")
    assert json.loads(path.with_suffix(".json").read_text())["on_the_way"] == columns
    (cell,), (folder,) = read_csv(path), read_runs(run)
    assert cell.origin.on_the_way == folder.origin.on_the_way == columns


def test_perplexities_on_the_way_are_columns_of_cells(tmp_path: Path) -> None:
    """Where runs have them; `course` gives them to figures, and nothing to those without."""
    run = write_run_folder(tmp_path / "run", [1.0, 2.0])
    own = {"score/mean": 1.0, "eval/score": 1.0, "eval/length": 9.0, "eval/perplexity": 4.0}
    logged = [{"step": k, **own, "policy/perplexity_sft": 3.0 + k} for k in range(2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    results = json.loads((run / "results.json").read_text())
    last = {"score": 7.0, "length": 8.0, "perplexity": 5.0, "perplexity_sft": 6.0}
    results["evaluation"] = {f"policy/{name}": {"mean": value} for name, value in last.items()}
    (run / "results.json").write_text(json.dumps(results))
    (cell,) = read_csv(write_cell(run, tmp_path / "cells", "task"))
    assert cell.origin.on_the_way["perplexity"] == [4.0, 4.0, 5.0]
    assert course(cell, "perplexity_sft") == ([0.0, 1.0, 2.0], [3.0, 4.0, 6.0])
    assert course(cell, "length")[1] == [9.0, 9.0, 8.0] and course(cell, "oracle") == ([], [])
    assert set(ON_THE_WAY) == set(WAY_COLUMNS), "a figure can show each of them"


def test_without_evaluations_on_the_way_a_cell_says_nothing_of_them(tmp_path: Path) -> None:
    path = write_cell(write_run_folder(tmp_path / "run", [1.0]), tmp_path / "cells", "task")
    assert "on_the_way" not in json.loads(path.with_suffix(".json").read_text())
    (cell,) = read_csv(path)
    assert cell.origin.on_the_way == {}

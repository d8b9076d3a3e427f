"""Which runs are averaged together: never two configurations, never one run twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paper_runs import lines, write_cell_json, write_csv, write_run_folder
from tokencredit.errors import UserError
from tokencredit.papers.sources import notes, read_sources


def identity(seed: int, **inputs: Any) -> dict[str, Any]:
    parents = {"sft": "s" * 16}
    return {"inputs": {"seed": seed, "lam": 0.95, **inputs}, "parents": parents}


def cell(folder: Path, run: int, method: str = "abc", **inputs: Any) -> Path:
    """A committed cell."""
    path = write_csv(folder / f"{method}{run}.csv", lines(method, run, [float(run), 1.0]))
    write_cell_json(path, identity(run, **inputs), key=f"{method}{run}")
    return path


def test_different_tasks_join_and_equal_tasks_of_unknown_origin_do_not(tmp_path: Path) -> None:
    a = write_csv(tmp_path / "a.csv", lines("abc", 1, [1.0]))
    b = write_csv(tmp_path / "b.csv", lines("abc", 1, [1.0], task="summarisation"))
    c = write_csv(tmp_path / "c.csv", lines("sparse", 1, [1.0]))
    both, alone = read_sources([a, b, c])
    assert (both.name, len(both.runs)) == ("a + b", 2)
    assert (alone.name, len(alone.runs)) == ("c", 1)


def test_runs_of_one_configuration_join_from_several_places(tmp_path: Path) -> None:
    for number in (0, 1):
        cell(tmp_path / f"machine{number}", number)
    (source,) = read_sources([tmp_path / "machine0", tmp_path / "machine1"])
    assert [run.run for run in source.runs] == [0, 1]
    assert source.about() == "scale cpu; model tiny; commit cccccccccc"


def test_runs_of_another_configuration_stay_apart_or_are_refused(tmp_path: Path) -> None:
    cell(tmp_path / "one", 0)
    cell(tmp_path / "two", 1, lam=0.5)
    assert len(read_sources([tmp_path / "one", tmp_path / "two"])) == 2
    with pytest.raises(UserError, match=r"lam: 0\.95 → 0\.5.*folders of their own"):
        read_sources([tmp_path])


def test_a_run_of_unknown_configuration_is_not_mixed_in(tmp_path: Path) -> None:
    cell(tmp_path, 0)
    write_csv(tmp_path / "bare.csv", lines("abc", 5, [1.0]))
    with pytest.raises(UserError, match="only one of them says how it was made"):
        read_sources([tmp_path])


def test_a_run_in_two_places_counts_once(tmp_path: Path) -> None:
    write_run_folder(tmp_path / "runs" / "k", [0.0, 1.0], key="abc0", seed=0, identity=identity(0))
    cell(tmp_path / "cells", 0)
    (source,) = read_sources([tmp_path / "runs", tmp_path / "cells"])
    assert len(source.runs) == 1


def test_two_runs_of_one_number_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", lines("abc", 1, [1.0]))
    write_csv(tmp_path / "b.csv", lines("abc", 1, [2.0]))
    with pytest.raises(UserError, match=r"a\.csv and .*b\.csv: both are run 1"):
        read_sources([tmp_path])


def test_methods_that_were_not_treated_alike_are_noted(tmp_path: Path) -> None:
    cell(tmp_path, 0, judge={"layer": -1}, rate=1e-4)
    cell(tmp_path, 0, "sparse", judge={}, rate=2e-5)
    (source,) = read_sources([tmp_path])
    assert notes(source, ["positive_generation"]) == [
        "abc and sparse differ in inputs.rate: 0.0001 → 2e-05"
    ]


def test_a_run_that_did_not_end_is_noted(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", lines("abc", 7, [1.0], status="failed"))
    (source,) = read_sources([path])
    (note,) = notes(source, ["positive_generation"])
    assert note == "positive_generation, abc, β = 0.8, 8–16 tokens, run 7: failed after 1 steps"


def test_runs_with_stages_of_their_own_differ_in_these_by_nature(tmp_path: Path) -> None:
    """One stage seed means one reward model; with others, models of their own are no mistake."""
    for number in (0, 1):
        path = cell(tmp_path, number)
        record = json.loads(path.with_suffix(".json").read_text())
        record["provenance"]["identity"]["parents"] = {"sft": str(number) * 16}
        record["seeds"] = {"seed": number, "stage_seed": number}
        record["provenance"]["recipes"] = {"sft": "one"}
        path.with_suffix(".json").write_text(json.dumps(record))
    (source,) = read_sources([tmp_path])
    assert len(source.runs) == 2

    def change(recipe: str, stage_seed: int) -> None:
        path = tmp_path / "abc1.json"
        record = json.loads(path.read_text())
        record["provenance"]["recipes"] = {"sft": recipe}
        path.write_text(json.dumps(record | {"seeds": {"stage_seed": stage_seed}}))

    change("another", 1)
    with pytest.raises(UserError, match=r"recipes\.sft: one → another"):
        read_sources([tmp_path])
    change("one", 0)
    with pytest.raises(UserError, match=r"parents\.sft: 0+ → 1+"):
        read_sources([tmp_path])


def scored(
    folder: Path, run: int, method: str, *, stage_seed: int = 0, recipe: str = "r", **hashes: str
) -> Path:
    """A committed cell with the hashes of what rated it, all of one recipe."""
    path = cell(folder, run, method)
    record = json.loads(path.with_suffix(".json").read_text())
    record["provenance"]["parents"] = {r: {"key": r, "sha256": h} for r, h in hashes.items()}
    record["provenance"]["recipes"] = {"sft": "one", "bradley_terry": recipe}
    record["seeds"] = {"seed": run, "stage_seed": stage_seed}
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


@pytest.mark.parametrize("role", ["reward_model", "oracle", "reward_model_1"])
def test_runs_of_one_stage_seed_that_other_weights_rated_are_refused(
    tmp_path: Path, role: str
) -> None:
    """Each by itself, in another method too; the error names the cells and both hashes."""
    for run in range(3):
        for method in ("abc", "sparse"):
            scored(tmp_path, run, method, **{"sft": "s0", "dpo": f"d{run}", role: "aaaa"})
    assert len(read_sources([tmp_path])[0].runs) == 6, "SFT and DPO models rate nothing here"
    scored(tmp_path, 2, "sparse", **{"sft": "s0", role: "bbbb"})
    said = rf"stage_seed 0 .*same {role.replace('_', ' ')}: aaaa rated 5 of them, bbbb rated \S*sparse2\.csv;"
    with pytest.raises(UserError, match=said):
        read_sources([tmp_path])
    scored(tmp_path, 2, "sparse", stage_seed=2, **{"sft": "s0", role: "bbbb"})
    assert len(read_sources([tmp_path])[0].runs) == 6, "another stage seed has its own"


def test_a_method_may_be_paid_by_a_model_of_another_recipe_but_has_no_oracle_of_its_own(
    tmp_path: Path,
) -> None:
    """PPO by a reward model of the pairs, and by one of revised over rejected answers."""
    scored(tmp_path, 0, "abc", sft="s0", bradley_terry="aaaa", oracle="o")
    scored(tmp_path, 0, "sparse", recipe="other", sft="s0", bradley_terry="bbbb", oracle="o")
    assert len(read_sources([tmp_path])[0].runs) == 2
    scored(tmp_path, 0, "sparse", recipe="other", sft="s0", bradley_terry="bbbb", oracle="p")
    with pytest.raises(UserError, match="same oracle: o rated 1 of them, p rated"):
        read_sources([tmp_path])


def test_a_dpo_model_that_scores_counts_as_a_scorer(tmp_path: Path) -> None:
    for run in range(2):
        path = scored(tmp_path, run, "abc", sft="s", dpo=f"d{run}")
        record = json.loads(path.with_suffix(".json").read_text())
        record["provenance"]["identity"]["inputs"]["scorer"] = {"class": "ImplicitJudge"}
        path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="same dpo: d0 rated 1 of them, d1 rated"):
        read_sources([tmp_path])


def test_records_without_a_hash_share_no_row_with_those_that_have_one(tmp_path: Path) -> None:
    scored(tmp_path / "new", 0, "abc", sft="s", reward_model="aaaa")
    cell(tmp_path / "old", 1, "abc")
    assert len(read_sources([tmp_path / "new", tmp_path / "old"])) == 2, "a row each"
    with pytest.raises(UserError, match="only one of them says which weights rated it"):
        read_sources([tmp_path])


def test_a_run_folder_says_which_weights_rated_it(tmp_path: Path) -> None:
    """A manifest has keys and hashes apart; one with them is taken before a twin without."""
    folder = write_run_folder(tmp_path / "a" / "k", [0.0, 1.0], key="abc0", identity=identity(0))
    cell(tmp_path / "b", 0)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"parents": {"reward_model": "key"}, "weights": {"reward_model": "aaaa"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (source,) = read_sources([tmp_path])
    (run,) = source.runs
    assert run.origin.made.scorers() == {"reward_model": "aaaa"}

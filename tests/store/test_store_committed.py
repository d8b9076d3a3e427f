"""Cells that are kept beside an experiment's page: what is written, and what counts as done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from observers import furnish
from tokencredit.canonical import canonical, digest
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.papers.cells import experiments_dir
from tokencredit.pipeline import cells
from tokencredit.pipeline.cells import (
    cells_folder,
    committed_cell,
    execute_and_keep,
    keep,
)
from tokencredit.pipeline.pipeline import Outcome
from tokencredit.settings import Run, Sweep
from tokencredit.stages.context import Context
from tokencredit.stages.rl import RLStage
from tokencredit.store.files import read_json, write_json, write_text
from tokencredit.store.jsonl import to_line
from tokencredit.store.run_folder import RunFolder, State

from .test_store_keys import config as config_of

NAME = "abc/positive_generation"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("committed"))


@pytest.fixture
def settings(place: Path, tmp_path: Path) -> Config:
    """A run of three steps in an experiment, with places of the test's own."""
    return replace(
        config_of(place),
        steps=3,
        run=Run(experiment=NAME, scale="cpu", scheme="abc"),
        runs_dir=str(tmp_path / "runs"),
        store=str(tmp_path / "store"),
        experiments_dir=str(tmp_path / "experiments"),
    )


def finish(settings: Config, *, failed: str | None = None, rows: int = 3) -> RLStage:
    """The run's folder, as training would leave it."""
    from tokencredit import config as configuration

    stage = RLStage(Context(settings))
    run = RunFolder(stage.folder)
    run.path.mkdir(parents=True, exist_ok=True)
    state = State.running if failed else State.complete
    identity = canonical(stage.identity)
    run.write(state, key=stage.key, identity=identity, failed=failed, arithmetic={"threads": 1})
    write_text(run.path / "config.yaml", configuration.dump(settings))
    metrics = [{"step": n, "score/mean": n / 2, "kl/k1": 0.1 * n} for n in range(rows)]
    (run.path / "metrics.jsonl").write_bytes(b"".join(to_line(row) for row in metrics))
    if not failed:
        results = {
            "config_hash": stage.key,
            "experiment": settings.run.experiment,
            "scheme": "abc",
            "seeds": {"seed": settings.seed},
            "status": "complete",
            "steps": rows,
        }
        write_json(run.path / "results.json", results)
    return stage


def test_a_kept_cell_is_done_for_its_own_experiment_alone(settings: Config) -> None:
    assert committed_cell(settings) is None
    stage = finish(settings)
    path = keep(
        settings, stage, ["seed=1", "store=x", "hydra.launcher.n_jobs=2", "steps=3"], anew=True
    )
    assert path == Path(settings.experiments_dir or "") / NAME / f"{stage.key}.csv"
    plan = committed_cell(settings)
    assert plan is not None and plan.hit and plan.key == stage.key
    assert plan.state == f"done (committed): {path}"
    record = read_json(path.with_suffix(".json"))["provenance"]
    assert record["overrides"] == ["seed=1", "steps=3"]
    assert digest(record["identity"]) == stage.key, "the key can be checked from the file alone"
    assert record["arithmetic"] == {"threads": 1} and record["processor"]
    assert record["parents"]["sft"] == {"key": stage.parents()["sft"].key, "sha256": None}
    for other in (
        replace(settings, run=Run(experiment="abc/beta_sweep")),
        replace(settings, run=Run()),
        replace(settings, seed=settings.seed + 1),
        replace(settings, steps=4),
        replace(settings, experiments_dir=None),
        replace(settings, sweep=Sweep(recompute=True)),
    ):
        assert committed_cell(other) is None
    assert committed_cell(replace(settings, steps=2, hardware=Hardware(threads=2))) is not None


def test_the_file_of_another_experiment_does_not_count(settings: Config) -> None:
    stage = finish(settings)
    path = keep(settings, stage, [], anew=True)
    assert path is not None
    record = read_json(path.with_suffix(".json"))
    for change in ({"config_hash": "f" * 16}, {"experiment": "abc/other"}, {"status": "failed"}):
        write_json(path.with_suffix(".json"), record | change)
        assert committed_cell(settings) is None
    path.with_suffix(".json").write_text("{")
    assert committed_cell(settings) is None


def test_hash_of_the_artifact_is_recorded(settings: Config) -> None:
    stage = finish(settings)
    parent = stage.parents()["sft"]
    folder = stage.context.store.folder(parent)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    from tokencredit.canonical import folder_sha256

    sums = folder_sha256(folder)
    write_json(folder / "manifest.json", {"sha256": sums, "identity": {}})
    path = keep(settings, stage, [], anew=True)
    assert path is not None
    kept = read_json(path.with_suffix(".json"))["provenance"]["parents"]["sft"]
    assert kept == {"key": parent.key, "sha256": digest(sums)}


def test_a_run_that_was_done_before_replaces_no_file(settings: Config) -> None:
    stage = finish(settings)
    path = keep(settings, stage, [], anew=False)
    assert path is not None and path.is_file(), "a missing one is written"
    text = path.read_text().replace(",0.5,", ",0.25,")
    path.write_text(text)
    keep(settings, stage, [], anew=False)
    assert path.read_text() == text
    keep(settings, stage, [], anew=True)
    assert path.read_text() != text


def test_a_diverged_run_is_kept_and_is_not_done(
    settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(_: Config) -> Outcome:
        finish(settings, failed="step 2: the loss is nan", rows=2)
        raise UserError("step 2: the loss is nan")

    monkeypatch.setattr(cells, "execute", execute)
    with pytest.raises(UserError, match="step 2"):
        execute_and_keep(settings, [])
    folder = cells_folder(settings)
    assert folder is not None
    (path,) = folder.glob("*.csv")
    assert path.read_text().count(",failed\n") == 2
    assert json.loads(path.with_suffix(".json").read_text())["error"] == "step 2: the loss is nan"
    assert committed_cell(settings) is None


@pytest.mark.parametrize("before", ["nothing", "an unfinished run"])
def test_other_failures_leave_no_cell(
    settings: Config, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    def execute(_: Config) -> Outcome:
        if before != "nothing":
            finish(settings, failed="x")
            RunFolder(RLStage(Context(settings)).folder).write(State.running, failed=None)
        raise UserError("killed")

    monkeypatch.setattr(cells, "execute", execute)
    with pytest.raises(UserError, match="killed"):
        execute_and_keep(settings, [])
    folder = cells_folder(settings)
    assert folder is not None and not folder.exists()


def test_cells_are_kept_in_a_clone_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    assert experiments_dir("auto") is None, "a folder of that name alone is someone else's"
    (tmp_path / "src" / "tokencredit").mkdir(parents=True)
    assert experiments_dir("auto") == "experiments"
    assert experiments_dir("elsewhere") == "elsewhere"
    assert experiments_dir(None) is None

"""Sweeps and processes: composed once, one bad cell harms no other, the second call runs only that."""

from __future__ import annotations

import io
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf

from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.pipeline.pipeline import Outcome
from tokencredit.pipeline.process import run_stage
from tokencredit.stages.mirrored import labelled
from tokencredit.sweeps import cell as sweep_cell
from tokencredit.sweeps import sweep

from .conftest import Command
from .make_snapshots import load

SWEEP = ("-m", "seed=0,1,2")


class Pipeline:
    """Stands for the stages: a run is a file in the folder; the run of seed 1 fails."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bad = folder, {1}
        self.ran: list[int] = []

    def __call__(self, config: Config, _: list[str]) -> Outcome:
        done = self.folder / f"done-{config.seed}"
        seconds = {} if done.exists() else {"rl": 1.0}
        if seconds:
            self.ran.append(config.seed)
            if config.seed in self.bad:
                raise UserError("step 3: the loss is nan")
            done.touch()
        return Outcome(last=SimpleNamespace(folder=self.folder), seconds=seconds)  # type: ignore[arg-type]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    made = Pipeline(tmp_path)
    monkeypatch.setattr(sweep_cell, "execute_and_keep", made)
    return made


def states() -> dict[int, str]:
    return {cell.number: cell.state for cell in sweep.cells(sweep.FOLDERS[-1])}


def test_field_B40_a_poisoned_cell_is_counted_and_alone_run_again(
    entry: Command, pipeline: Pipeline
) -> None:
    first = entry(*SWEEP)
    assert first.code == 1 and "3 cells, 1 failed" in first.out
    assert "failed: step 3: the loss is nan" in first.err and "Traceback" not in first.err
    assert states() == {0: "done", 1: "failed", 2: "done"} and pipeline.ran == [0, 1, 2]
    pipeline.ran, pipeline.bad = [], set()
    second = entry(*SWEEP)
    assert second.code == 0 and pipeline.ran == [1]
    assert states() == {0: "done before", 1: "done", 2: "done before"}


def test_each_cell_of_a_sweep_is_composed_once(
    entry: Command, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, own = Counter[str](), ConfigLoaderImpl.load_configuration
    cells = ("seed=0", "seed=1", "seed=2")

    def load(loader: ConfigLoaderImpl, *, overrides: list[str], **more: Any) -> Any:
        composed.update(text for text in overrides if text in cells)
        return own(loader, overrides=overrides, **more)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load)
    pipeline.bad = set()
    assert entry(*SWEEP).code == 0
    assert composed == dict.fromkeys(cells, 1)


def test_who_asks_for_a_cell_again_may_change_it() -> None:
    loader = SimpleNamespace(load_sweep_config=lambda _, overrides: OmegaConf.create(overrides))
    once = sweep.ComposedOnce(cast("ConfigLoader", loader))
    looked_at, launched, again = (loader.load_sweep_config(None, ["seed=1"]) for _ in range(3))
    assert launched is looked_at and again is not launched
    assert list(once.kept) == [("seed=1",)] and once.__getstate__()["kept"] == {}


@pytest.mark.parametrize("experiment", [None, "abc/positive_generation"])
def test_the_cells_of_a_sweep_are_one_group_at_wandb(
    entry: Command, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, experiment: str | None
) -> None:
    """Whatever their schemes are; that of an experiment stays when a sweep is started again."""
    groups: list[str | None] = []

    def seen(config: Config, overrides: list[str]) -> Outcome:
        groups.append(labelled(config, "rl").group)
        return pipeline(config, overrides)

    pipeline.bad = set()
    monkeypatch.setattr(sweep_cell, "execute_and_keep", seen)
    swept = ["reward_scheme=sparse,uniform"]
    if experiment is not None:
        swept = [f"experiment={experiment}", "scale=cpu", "method=sparse,uniform", "seed=0"]
    ended = entry("-m", *swept, "experiments_dir=null")
    assert ended.code == 0, ended.err
    assert len(groups) >= 2 and set(groups) == {experiment or f"sweep {sweep.FOLDERS[-1].name}"}


def test_schemes_beside_the_methods_of_an_experiment_are_refused_before_the_first_cell(
    entry: Command, pipeline: Pipeline
) -> None:
    chosen = ("experiment=abc/positive_generation", "scale=cpu", "method=abc", "seed=0,1")
    ended = entry("-m", *chosen, "experiments_dir=null", "reward_scheme=sparse,uniform")
    assert ended.code == 2 and pipeline.ran == []
    (line,) = ended.err.splitlines()
    assert line.startswith("error: reward_scheme = 'sparse': method=abc has a scheme; leave one")


def test_field_B40_a_cell_that_is_not_recorded_would_be_seen(
    entry: Command, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unrecorded(_: Any, composed: Any, __: Any, load: Any, **___: Any) -> None:
        sweep_cell.execute_and_keep(load(composed), [])

    monkeypatch.setattr(sweep_cell, "run_cell", unrecorded)
    ended = entry(*SWEEP)
    assert ended.code != 0 and "1 failed" not in ended.out and states() == {}


def test_field_B40_every_process_reads_what_its_parent_composed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No rank composes: each gets the whole configuration, and its own number, from the parent."""
    config = load("hardware=cpu_ddp2", "seed=7")
    heard: list[tuple[list[str], str | None, io.BytesIO]] = []

    class Heard(io.BytesIO):
        def close(self) -> None:
            """Stay readable."""

    def start(command: list[str], env: dict[str, str], **_: Any) -> Any:
        heard.append((command, env.get("RANK"), Heard()))
        nothing = lambda: 0  # noqa: E731
        return SimpleNamespace(stdin=heard[-1][2], poll=nothing, kill=nothing, wait=nothing)

    monkeypatch.setattr(subprocess, "Popen", start)
    assert run_stage(config, "rl", "key") == (0, "")
    assert [rank for _, rank, _ in heard] == ["0", "1"]
    for command, _, said in heard:
        assert command[1:] == ["-m", "tokencredit.pipeline.worker", "rl", "key"]
        text = said.getvalue().decode()
        assert text == configuration.dump(config)
        assert configuration.read(io.StringIO(text)) == config

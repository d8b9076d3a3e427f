"""Keys: changed by what can change a result, and by nothing else; paths count by content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import tiny_causal, train_tokenizer, write_reviews
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.data.splits import Splits
from tokencredit.hardware import Hardware
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.loading.model import Dtype, Model, ModelSource, Pretrained
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.uniform import Uniform
from tokencredit.settings import SFT, Evaluation, Oracle, RewardModel, Run, Sweep
from tokencredit.stages.context import Context
from tokencredit.stages.rl import RLStage
from tokencredit.tracking.tracking import Tracking

STAGES = ("sft", "reward_model", "oracle", "rl")
Change = Callable[[Config], Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reviews, a model, and a judge's file."""
    folder = tmp_path_factory.mktemp("inputs")
    write_reviews(folder / "reviews.jsonl")
    tiny_causal().save_pretrained(folder / "model")
    train_tokenizer().save_pretrained(folder / "model")
    (folder / "judge.py").write_text("def f(prompts, responses): return [0.0] * len(responses)\n")
    return folder


def config(place: Path) -> Config:
    return Config(
        model=Model(
            policy=Pretrained(source=ModelSource.path, path=str(place / "model"), name=None),
            context=64,
        ),
        dataset=Dataset(source=Source.path, path=str(place / "reviews.jsonl")),
        judge=AttentionJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Redistribute(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
    )


def keys(settings: Config) -> dict[str, str]:
    stage = RLStage(Context(settings))
    return {"rl": stage.key, **{role: parent.key for role, parent in stage.parents().items()}}


def changed(place: Path, change: Callable[[Config], Config]) -> set[str]:
    before, after = keys(config(place)), keys(change(config(place)))
    return {name for name in STAGES if before[name] != after[name]}


def model(settings: Config, **numbers: Any) -> Config:
    return replace(settings, model=replace(settings.model, **numbers))


def data(settings: Config, **numbers: Any) -> Config:
    return replace(settings, dataset=replace(settings.dataset, **numbers))


RL = {"rl"}
ALL = set(STAGES)
CHANGES: dict[str, tuple[Callable[[Config], Config], set[str]]] = {
    "seed": (lambda c: replace(c, seed=1), RL),
    "stage_seed": (lambda c: replace(c, stage_seed=1), ALL),
    "lam": (lambda c: replace(c, algorithm=PPO(lam=0.9)), RL),
    "kl": (lambda c: replace(c, algorithm=PPO(kl=KLPenalty(coef=0.1))), RL),
    "rate": (lambda c: replace(c, algorithm=PPO(optimizer=Optimizer(learning_rate=1.0))), RL),
    "beta": (lambda c: replace(c, reward_scheme=Redistribute(beta=0.7)), RL),
    "scheme": (lambda c: replace(c, reward_scheme=Uniform()), RL),
    "layer": (lambda c: replace(c, judge=AttentionJudge(layer=0)), RL),
    "temperature": (lambda c: replace(c, rollout=Sampling(temperature=0.7)), RL),
    "lengths": (lambda c: replace(c, rollout=Sampling(max_new_tokens=20)), RL),
    "eos mask": (lambda c: replace(c, rollout=Sampling(eos_masked_before=0)), RL),
    "logp mask": (lambda c: replace(c, rollout=Sampling(logprob_mask=LogprobMask.full)), RL),
    "prompt": (lambda c: data(c, prompt=PromptSpec(max_tokens=7)), RL),
    "evaluation": (lambda c: replace(c, evaluation=Evaluation(prompts=4)), RL),
    "sft": (lambda c: replace(c, sft=SFT(learning_rate=0.75)), {"sft", "rl"}),
    "reward model": (
        lambda c: replace(c, reward_model=RewardModel(epochs=7.5)),
        {"reward_model", "rl"},
    ),
    "oracle": (lambda c: replace(c, oracle=Oracle(epochs=11)), {"oracle", "rl"}),
    "dtype": (lambda c: model(c, dtype=Dtype.bfloat16), {"sft", "reward_model", "rl"}),
    "lora": (lambda c: model(c, lora=Lora(enabled=True)), {"sft", "reward_model", "rl"}),
    "context": (lambda c: model(c, context=60), RL),
    "splits": (  # the oracle keeps its records
        lambda c: data(c, splits=Splits(sft=0.39, rl=0.16)),
        {"sft", "reward_model", "rl"},
    ),
    "plain text": (lambda c: data(c, plain_text=False, positive=["0"], negative=["1"]), ALL),
}
NO_CHANGES: dict[str, Callable[[Config], Config]] = {
    "hardware": lambda c: replace(c, hardware=Hardware(name="gpu", threads=2, stage_threads=1)),
    "tracking": lambda c: replace(c, tracking=Tracking(project="other")),
    "steps": lambda c: replace(c, steps=7),
    "cadence": lambda c: replace(
        c, run=Run(save_every=1, sample_every=1, samples=0, figures=False)
    ),
    "names": lambda c: replace(c, run=Run(experiment="abc/x", scale="cpu", scheme="abc")),
    "places": lambda c: replace(c, run_dir="elsewhere", runs_dir="others", store="shop"),
    "cells": lambda c: replace(c, experiments_dir=None, sweep=Sweep(recompute=True)),
    "shown names": lambda c: data(model(c, name="other"), name="mine"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_input_changes_its_stage_and_what_follows(place: Path, name: str) -> None:
    change, expected = CHANGES[name]
    assert changed(place, change) == expected


def recipes(settings: Config) -> dict[str, str]:
    stage = RLStage(Context(settings))
    return {"rl": stage.recipe, **stage.recipes}


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_is_what_a_key_has_besides_seeds(place: Path, name: str) -> None:
    """Of both seeds, and of those of the stages before; everything else changes it as a key."""
    change, expected = CHANGES[name]
    before, after = recipes(config(place)), recipes(change(config(place)))
    apart = {stage for stage in STAGES if before[stage] != after[stage]}
    assert apart == (set() if name in {"seed", "stage_seed"} else expected)


@pytest.mark.parametrize("name", NO_CHANGES)
def test_what_cannot_change_a_result_changes_no_key(place: Path, name: str) -> None:
    assert changed(place, NO_CHANGES[name]) == set()


def test_a_file_that_moves_keeps_its_keys_and_a_changed_byte_does_not(
    place: Path, tmp_path: Path
) -> None:
    def at(path: Path) -> Callable[[Config], Config]:
        return lambda c: data(c, path=str(path))

    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(place / "reviews.jsonl", moved)
    assert changed(place, at(moved)) == set()
    moved.write_text(moved.read_text().replace("review 17:", "review 17;"))
    different = changed(place, at(moved))
    assert "rl" in different and different != set()


def test_a_changed_label_is_another_key(place: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.jsonl"
    lines = (place / "reviews.jsonl").read_text().splitlines()
    flipped = [
        line.replace('"label": 1', '"label": 0') if n < 60 else line for n, line in enumerate(lines)
    ]
    moved.write_text("\n".join(flipped) + "\n")
    assert changed(place, lambda c: data(c, path=str(moved))) == ALL


def test_a_model_folder_counts_by_content(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(place / "model", folder)
    source = Pretrained(source=ModelSource.path, path=str(folder), name=None)
    assert changed(place, lambda c: model(c, policy=source)) == set()
    (folder / "README.md").write_text("no part of a model")
    assert changed(place, lambda c: model(c, policy=source)) == set()
    tokens = folder / "tokenizer.json"
    content = tokens.read_bytes()
    tokens.write_bytes(content + b"\n")
    assert changed(place, lambda c: model(c, policy=source)) == {"sft", "reward_model", "rl"}
    tokens.write_bytes(content)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert changed(place, lambda c: model(c, policy=source)) == {"sft", "reward_model", "rl"}


def test_a_judges_file_counts_by_content_and_a_plugin_that_is_not_used_not_at_all(
    place: Path, tmp_path: Path
) -> None:
    def key(path: Path, **numbers: Any) -> str:
        settings = replace(
            config(place),
            reward_scheme=Uniform(),
            judge=FunctionJudge(function=f"{path}:f"),
            **numbers,
        )
        return RLStage(Context(settings)).key

    second = tmp_path / "second.py"
    shutil.copy(place / "judge.py", second)
    first = key(place / "judge.py")
    assert key(second) == first
    assert key(second, plugins=[str(place / "judge.py")]) == first
    second.write_text(second.read_text() + "\n# changed\n")
    assert key(second) != first


def test_only_what_is_used_is_a_parent(place: Path) -> None:
    settings = replace(
        config(place),
        reward_scheme=Uniform(),
        judge=FunctionJudge(function=f"{place / 'judge.py'}:f"),
        scorer=FunctionJudge(function=f"{place / 'judge.py'}:f"),
        oracle=Oracle(enabled=False),
    )
    assert set(RLStage(Context(settings)).parents()) == {"sft"}

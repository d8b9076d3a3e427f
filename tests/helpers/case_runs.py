"""Configurations of runs on one model folder and one data file of the cases, without the CLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.procedure import Procedure
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.hardware import Hardware
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.loading.model import Model, ModelSource, Pretrained, PretrainedReward
from tokencredit.pipeline.pipeline import all_stages, plan
from tokencredit.rewards.sparse import Sparse
from tokencredit.settings import SFT, Oracle, RewardModel
from tokencredit.stages.context import Context
from tokencredit.tracking.tracking import Tracking


def folder_of(path: Path) -> Pretrained:
    """The model in a folder."""
    return Pretrained(source=ModelSource.path, path=str(path), name=None)


def reward_of(path: Path | None) -> PretrainedReward:
    """The reward model in a folder; without one, the policy."""
    if path is None:
        return PretrainedReward(source=ModelSource.same)
    return PretrainedReward(source=ModelSource.path, path=str(path), name=None)


def run_on(
    model: Path,
    data: Path,
    format: str = "text",  # noqa: A002 - as the key is called
    *,
    reward: Path | None = None,
    algorithm: Procedure | None = None,
    sft: dict[str, Any] | None = None,
    **dataset: Any,
) -> Config:
    """A short run of that model on that file; its store and runs lie beside the data."""
    settings: dict[str, Any] = {"prompt": PromptSpec(min_characters=20), **dataset}
    return Config(
        model=Model(policy=folder_of(model), reward=reward_of(reward), context=192),
        dataset=Dataset(source=Source.path, path=str(data), format=format, **settings),
        judge=RewardModelJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Sparse(),
        algorithm=algorithm or PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
        sft=SFT(**{"max_length": 96, "max_tokens": 1000, "batch_size": 4, **(sft or {})}),
        reward_model=RewardModel(max_length=96, max_tokens=1000, batch_size=4),
        oracle=Oracle(buckets=1024),
        store=str(data.parent / "store"),
        runs_dir=str(data.parent / "runs"),
        experiments_dir=None,
        steps=2,
    )


def key_of(config: Config, stage: str) -> dict[str, Any]:
    """What a stage's key is a hash of."""
    return next(s for s in all_stages(Context(config)) if s.name == stage).identity


def planned(config: Config) -> list[str]:
    """The names of the stages that `plan` lists."""
    return [each.name for each in plan(config)]

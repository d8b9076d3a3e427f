"""A folder with pairs of answers and a tiny model, and the configuration of a run on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders import tiny_causal, train_tokenizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source
from tokencredit.data.splits import Splits
from tokencredit.hardware import Hardware
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.loading.model import Model, ModelSource, Pretrained
from tokencredit.rewards.sparse import Sparse
from tokencredit.settings import SFT, Oracle, RewardModel
from tokencredit.tracking.tracking import Tracking

GOOD, BAD = ("good", "wonderful", "touching"), ("bad", "awful", "boring")


def pair_row(number: int) -> dict[str, str]:
    """A question with a kind answer that won and an unkind one that lost."""
    return {
        "prompt": f"how was movie {number}?",
        "chosen": f" it was {GOOD[number % 3]}" + " and I loved it" * (number % 2),
        "rejected": f" it was {BAD[number // 3 % 3]}",
    }


def furnish_pairs(folder: Path, count: int = 60, **roles: Any) -> Path:
    """Write `pairs.jsonl` and a model whose tokenizer has these roles to `folder`."""
    lines = [json.dumps(pair_row(number)) + "\n" for number in range(count)]
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    model = tiny_causal(pad_token_id=None)
    model.save_pretrained(folder / "model")
    train_tokenizer(**roles).save_pretrained(folder / "model")
    return folder


def pair_config(place: Path, **reward: Any) -> Config:
    """A run on these pairs; `reward` are settings of the reward model."""
    settings = {"learning_rate": 1e-2, "batch_size": 4, "max_length": 90, "epochs": 1.0}
    return Config(
        model=Model(
            policy=Pretrained(source=ModelSource.path, path=str(place / "model"), name=None),
            context=96,
        ),
        dataset=Dataset(
            source=Source.path,
            path=str(place / "pairs.jsonl"),
            format="preference",
            label_column=None,
            splits=Splits(sft=0.25, reward=0.25, rl=0.2, oracle=0.15, eval=0.15),
        ),
        judge=RewardModelJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Sparse(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
        sft=SFT(max_length=90),
        reward_model=RewardModel(**{**settings, **reward}),
        oracle=Oracle(buckets=1024),
    )


def with_model(config: Config, **numbers: Any) -> Config:
    """`config` with other settings of the model."""
    return replace(config, model=replace(config.model, **numbers))

"""Two runs that could have come from training (real oracle, real configuration, random models), and
`tokencredit judge compare` on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from typer.testing import CliRunner, Result

import builders
from tokencredit import config as configuration
from tokencredit.algorithms.ppo import PPO
from tokencredit.canonical import folder_sha256
from tokencredit.cli import app
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.data.splits import Splits
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Model
from tokencredit.rewards.sparse import Sparse
from tokencredit.settings import Oracle
from tokencredit.stages.context import Context
from tokencredit.stages.oracle import OracleStage
from tokencredit.store.files import write_json
from tokencredit.store.jsonl import read_jsonl
from tokencredit.tracking.tracking import Tracking

PARENTS = {"sft": "5f7", "reward_model": "4e3"}


def write(folder: Path) -> Path:
    """`folder`, with the runs sparse and abc, and store/ with what they were made from."""
    reviews = builders.write_reviews(folder / "reviews.jsonl", 200)
    for seed, scheme in enumerate(("sparse", "abc")):
        config = config_of(scheme, seed, reviews, folder / "store")
        context = Context(config)
        oracle = OracleStage(context)
        context.store.build(oracle)
        run = folder / scheme
        save(builders.tiny_causal("llama", seed), run / "policy")
        (run / "config.yaml").write_text(configuration.dump(config), encoding="utf-8")
        parents = {**PARENTS, "oracle": oracle.key}
        prints = {"eval": context.corpus.fingerprints["eval"]}
        ended = {"key": f"key{seed}", "state": "complete"}
        manifest = {**ended, "parents": parents, "fingerprints": prints}
        write_json(run / "manifest.json", manifest)
    sft, reward = (folder / "store" / stage / key for stage, key in PARENTS.items())
    save(builders.tiny_causal("llama", 7), sft)
    save(builders.tiny_classifier("llama", 3), reward)
    for stage, artifact in (("sft", sft), ("reward_model", reward)):
        write_json(artifact / "manifest.json", {"stage": stage, "sha256": folder_sha256(artifact)})
    return folder


def config_of(scheme: str, seed: int, reviews: Path, store: Path) -> Config:
    """A configuration with short prompts and answers."""
    config = Config(
        model=Model(context=64),
        dataset=Dataset(
            name="file",
            source=Source.path,
            path=str(reviews),
            splits=Splits(sft=0.2, reward=0.2, rl=0.2, oracle=0.2, eval=0.2),
            prompt=PromptSpec(min_characters=10),
        ),
        judge=RewardModelJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Sparse(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
        rollout=Sampling(min_new_tokens=3, max_new_tokens=9),
        oracle=Oracle(buckets=1024, epochs=2),
        store=str(store),
        seed=seed,
    )
    config.run.scheme = scheme
    return config


def save(model: PreTrainedModel, folder: Path) -> None:
    """A plain Hugging Face folder."""
    model.save_pretrained(folder)
    builders.train_tokenizer().save_pretrained(folder)


def compare(*arguments: object) -> Result:
    """What `tokencredit judge compare` does."""
    return CliRunner().invoke(app, ["judge", "compare", *map(str, arguments)])


def ok(*arguments: object) -> str:
    """What it says; it must succeed."""
    answer = compare(*arguments)
    assert answer.exit_code == 0, f"{answer.output}\n{answer.exception!r}"
    return answer.output


def mistake(*arguments: object) -> str:
    """The user's mistake that it names."""
    answer = compare(*arguments)
    assert isinstance(answer.exception, UserError), answer.exception
    return str(answer.exception)


def results(out: Path) -> dict[str, Any]:
    """What it wrote."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    """The answers of one model."""
    return [row for row in read_jsonl(out / "answers.jsonl") if row["generator"] == name]

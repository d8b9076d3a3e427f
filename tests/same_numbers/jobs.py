"""The runs that both sides do: small, and among them every part of the package that makes numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

from ended import ARCHITECTURE

SHORT: Final = [
    "model.context=192",
    "sft.max_tokens=6000",
    "sft.max_length=96",
    "reward_model.max_tokens=6000",
    "reward_model.max_length=96",
    "evaluation.prompts=16",
    "run.save_every=2",
    "run.sample_every=1",
    "run.figures=false",
    "tracking=disabled",
    "experiments_dir=null",
]
SMALL: Final = [
    "dataset=file",
    "dataset.path=reviews.jsonl",
    *ARCHITECTURE,
    "algorithm.optimizer.learning_rate=3e-4",
]
"""Reviews made up below, and a decoder that is drawn anew."""
SAMPLED: Final = ["dpo.pairs=sampled", "dpo.prompts=32", "dpo.held_out=8", "dpo.batch_size=8"]
CLIPPED: Final = ["algorithm.normalise=reference", "algorithm.score_clip=0.5"]
TEXTS: Final = ["judge=ensemble", "model.reward_reads=text"]
ADAPTERS: Final = ["hardware=cpu_ddp2", "model.lora.enabled=true", "model.lora.r=4"]
CRITIC: Final = ["algorithm=ppo_openrlhf", "algorithm.batch_size=16", "algorithm.minibatches=2"]
JOBS: Final[dict[str, list[str]]] = {
    "abc": ["reward_scheme=abc"],  # the shipped model on IMDb
    "sparse": [*SMALL, "reward_scheme=sparse"],
    "rto_v2": [*SMALL, "reward_scheme=rto_v2", *SAMPLED],
    "attribution": [*SMALL, "reward_scheme=attribution"],
    "critic": [*SMALL, "reward_scheme=sparse", *CRITIC],
    "grpo": [*SMALL, "reward_scheme=sparse", "algorithm=grpo"],
    "remax": [*SMALL, "reward_scheme=sparse", "algorithm=remax", "rollout.top_p=0.9"],
    "ppo_penalty": [*SMALL, "reward_scheme=abc", "algorithm=ppo_penalty"],
    "normalised": [*SMALL, "reward_scheme=uniform", *CLIPPED],
    "abc_d": [*SMALL, "reward_scheme=abc_d", "evaluation.every=2"],
    "ensemble": [*SMALL, "reward_scheme=abc", *TEXTS],
    "ddp": [*SMALL, "reward_scheme=abc", *ADAPTERS],
}
"""Overrides of each run, by its name here."""
RESUMED: Final = ("abc", "abc_d", "critic")
"""Runs of which the old code does two steps and the new code the other two."""
COMPARED: Final = ("sparse", "normalised", "abc_d")
"""Runs that `judge compare` reads: of one model, data set, and oracle."""
STEPS: Final = 4
TABLE: Final = """\
kind: table
title: Two schemes
source: two short runs
methods: {sparse: All at the end, uniform: Equal shares}
baseline: sparse
panels:
  - {task: file, title: Reviews, points: 4, column: kl}
"""
GOOD: Final = "lovely warm clever moving bright delightful".split()
BAD: Final = "dull cold clumsy tedious bleak dreadful".split()
PLAIN: Final = (
    "the film story cast plot scene music actor camera ending was is and with for".split()
)


def overrides(name: str, steps: int = STEPS) -> list[str]:
    """The arguments of a run after `train` or `plan`."""
    return [*JOBS[name], *SHORT, f"steps={steps}"]


def furnish(place: Path) -> None:
    """Make the folder of a run, with what it reads."""
    place.mkdir(parents=True)
    rows = "".join(json.dumps(_review(number)) + "\n" for number in range(300))
    (place / "reviews.jsonl").write_text(rows, encoding="utf-8")
    (place / "table.yaml").write_text(TABLE, encoding="utf-8")


def _review(number: int) -> dict[str, object]:
    draw = random.Random(number)
    opinion = GOOD if number % 2 else BAD
    words = [draw.choice(opinion if draw.random() < 0.35 else PLAIN) for _ in range(50)]
    return {"text": f"{' '.join(words).capitalize()}.", "label": number % 2}

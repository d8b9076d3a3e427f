"""After training: the policy against the model it started from, on held-out prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokencredit.data.prompts import PromptStream
from tokencredit.judges.function import decode
from tokencredit.judges.judge import OpenJudge
from tokencredit.ops import k1, masked_sum
from tokencredit.reports.statistics import distinct_n
from tokencredit.rollout import Rollout
from tokencredit.stages.actors import Actors
from tokencredit.stages.oracle import BagOfGrams

if TYPE_CHECKING:
    from tokencredit.config import Config

Measure = dict[str, float]
Row = dict[str, Any]
MODELS = ("policy", "sft")


def evaluate(
    config: Config,
    actors: Actors,
    judge: OpenJudge,
    oracle: BagOfGrams | None,
    prompts: PromptStream,
) -> list[Row]:
    """One row a held-out prompt: what policy and SFT model say, and what is said of it.

    Both continue the same prompts with the same random numbers, so they can be compared in pairs.
    """
    settings = config.evaluation
    stream = ("evaluation", settings.stream)
    count = min(settings.prompts, len(prompts.records))
    batch = prompts.batch(settings.stream, 0, count, "evaluation")
    batch = batch.to(next(actors.policy.parameters()).device)
    trained = actors.roll_out(batch, stream)
    with actors.reference.model() as model:
        first = actors.respond(model, batch, stream)
    columns: dict[str, list[Any]] = {
        "row": batch.rows.tolist(),
        "prompt": decode(actors.tokenizer, batch.ids, batch.mask),
        "policy/kl": masked_sum(k1(trained.logp, trained.ref_logp), trained.response_mask).tolist(),
    }
    for name, rollout in zip(MODELS, (trained, first), strict=True):
        columns |= _opinions(name, actors, rollout, judge, oracle)
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _opinions(
    name: str, actors: Actors, rollout: Rollout, judge: OpenJudge, oracle: BagOfGrams | None
) -> dict[str, list[Any]]:
    """Columns about one model's responses; the oracle sees the responses alone."""
    texts = decode(actors.tokenizer, rollout.response_ids, rollout.response_mask)
    columns = {
        f"{name}/response": texts,
        f"{name}/score": judge(rollout).scores.tolist(),
        f"{name}/length": rollout.lengths.tolist(),
    }
    if oracle is not None:
        columns[f"{name}/oracle"] = oracle.rate(texts).tolist()
    return columns


def report(rows: list[Row]) -> dict[str, Measure]:
    """Mean and standard error of every number, and distinct-2 of each model's responses."""
    measures: dict[str, Measure] = {}
    for key, value in rows[0].items():
        if "/" in key and not isinstance(value, str):
            measures[key] = summarise(torch.tensor([float(row[key]) for row in rows]))
    for name in MODELS:
        texts = [row[f"{name}/response"] for row in rows]
        measures[f"{name}/distinct_2"] = {"mean": distinct_n(texts, 2), "se": 0.0, "n": len(rows)}
    return measures


def summarise(values: Tensor) -> Measure:
    """Mean, standard error, and count."""
    n = len(values)
    se = float(values.double().std(unbiased=True) / n**0.5) if n > 1 else 0.0
    return {"mean": float(values.double().mean()), "se": se, "n": n}

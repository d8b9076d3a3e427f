"""After training: the policy against the model it started from, on held-out prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def evaluate(
    config: Config,
    actors: Actors,
    judge: OpenJudge,
    oracle: BagOfGrams | None,
    prompts: PromptStream,
) -> dict[str, Measure]:
    """Scores, oracle's ratings, distinct-2, and length of policy and SFT model; the policy's KL.

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
    report: dict[str, Measure] = {}
    for name, rollout in (("policy", trained), ("sft", first)):
        report |= {
            f"{name}/{key}": value for key, value in measure(actors, rollout, judge, oracle).items()
        }
    kl = masked_sum(k1(trained.logp, trained.ref_logp), trained.response_mask)
    return {**report, "policy/kl": summarise(kl)}


def measure(
    actors: Actors, rollout: Rollout, judge: OpenJudge, oracle: BagOfGrams | None
) -> dict[str, Measure]:
    """What is said of one model's responses; the oracle and distinct-2 see the responses alone."""
    texts = decode(actors.tokenizer, rollout.response_ids, rollout.response_mask)
    report = {
        "score": summarise(judge(rollout).scores),
        "distinct_2": {"mean": distinct_n(texts, 2), "se": 0.0, "n": len(texts)},
        "length": summarise(rollout.lengths.float()),
    }
    if oracle is not None:
        report["oracle"] = summarise(oracle.rate(texts))
    return report


def summarise(values: Tensor) -> Measure:
    """Mean, standard error, and count."""
    n = len(values)
    se = float(values.double().std(unbiased=True) / n**0.5) if n > 1 else 0.0
    return {"mean": float(values.double().mean()), "se": se, "n": n}

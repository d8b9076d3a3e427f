"""After training: the policy against the model it started from, on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float

from tokencredit.data.prompts import PromptStream
from tokencredit.judges.implicit import Reading
from tokencredit.judges.judge import OpenJudge
from tokencredit.judges.panel import Panel
from tokencredit.models.actors import Actors, Stream
from tokencredit.models.log_ratio import LogRatio
from tokencredit.models.tokens.texts import decode
from tokencredit.ops import k1, masked_sum
from tokencredit.rl.collector import Collector
from tokencredit.rl.failed_step import require_finite
from tokencredit.rl.perplexity import OWN, PARTS, Perplexities, measures
from tokencredit.rollout import Judgement
from tokencredit.statistics.intervals import distinct_n, distinct_n_error
from tokencredit.statistics.win_rates import shares

if TYPE_CHECKING:
    from tokencredit.config import Config
    from tokencredit.rollout import Prompts, Rollout
    from tokencredit.settings import Evaluation


class Rater(Protocol):
    """An opinion of texts from outside of the run, as `stages.oracle.BagOfGrams` has it."""

    def rate(self, texts: Sequence[str]) -> Float[torch.Tensor, "B"]:
        """How good each text is."""


Measure = dict[str, float]
Row = dict[str, Any]
MODELS = ("policy", "sft")
DPO = "dpo"
"""The third, of runs that a DPO model judges: where it is in score and distance beside them."""
PAID = "score"
"""What judge or scorer said, of models that were paid; of one that learnt without rollouts none."""
HEADLINE = ("score/mean", "reward/mean", "kl/k1", "length/mean", "credit/entropy", "value/loss")
"""The metrics of training whose last values stand beside the evaluation in results.json."""


def evaluate(
    config: Config,
    actors: Actors,
    collector: Collector,
    oracle: Rater | None,
    prompts: PromptStream,
) -> list[Row]:
    """One row a held-out prompt: what policy and SFT model say, and what is said of it.

    So does the DPO model, where judge or scorer read one. All continue the same prompts with the
    same random numbers, so they can be compared in pairs. There are no scores where nobody was paid
    (`unpaid`).
    """
    batch, stream = held_out(config.evaluation, prompts)
    trained = collector.collect(batch, partial(actors.roll_out, stream=stream))
    with actors.reference.model() as model:
        first = collector.collect(batch, partial(actors.answer, model, stream=stream))
    said = {"policy": trained, "sft": first, **dpo_answers(actors, collector, batch, stream)}
    for rollout, judgement in said.values():
        require_finite(rollout, judgement, None, config.steps)
    columns: dict[str, list[Any]] = {
        "row": batch.rows.tolist(),
        "prompt": decode(actors.tokenizer, batch.ids, batch.mask),
        **{f"{name}/kl": _kl(said[name][0]).tolist() for name in said if name != "sft"},
    }
    for name, (rollout, judgement) in said.items():
        texts = decode(actors.tokenizer, rollout.response_ids, rollout.response_mask)
        columns[f"{name}/response"] = texts
        if collector.judge is not unpaid:
            columns[f"{name}/{PAID}"] = judgement.scores.tolist()
        columns[f"{name}/length"] = rollout.lengths.tolist()
        columns[f"{name}/finished"] = rollout.finished.tolist()
        if oracle is not None:  # sees the responses alone
            columns[f"{name}/oracle"] = oracle.rate(texts).tolist()
    if oracle is not None:
        columns |= {
            f"{name}/win_rate": shares(columns[f"{name}/oracle"], columns["sft/oracle"]).tolist()
            for name in said
            if name != "sft"
        }
    perplexities = Perplexities.of(config, actors, collector.world, prompts)
    if perplexities is not None:
        columns |= perplexities.columns({name: rollout for name, (rollout, _) in said.items()})
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def unpaid(rollout: Rollout) -> Judgement:
    """In a judge's place for a model that no score has paid: zeros, which are reported nowhere."""
    zeros = torch.zeros(rollout.response_mask.shape, device=rollout.response_mask.device)
    return Judgement(scores=zeros[:, 0], evidence=zeros)


def dpo_answers(
    actors: Actors, collector: Collector, prompts: Prompts, stream: Stream
) -> dict[str, tuple[Rollout, Judgement]]:
    """What the DPO model that the judge reads says to the prompts; empty where there is none.

    Its distance is that from the policy's reference, in the distribution that was sampled from.
    """
    models = dpo_models(collector.judge)
    if models is None:
        return {}

    def speak(chunk: Prompts) -> Rollout:
        with models.dpo() as model:
            said = actors.respond(model, chunk, stream)
            logp = actors.reference.under(model, said)
        return replace(said, logp=logp, ref_logp=actors.reference.logp(said))

    return {DPO: collector.collect(prompts, speak)}


def on_the_way(
    actors: Actors, rollout: Rollout, judgement: Judgement, oracle: Rater | None
) -> dict[str, float]:
    """The means over held-out prompts that are logged during training, by name of the metric.

    They are the numbers that `report` gives of the policy after training: paid score, nats from the
    reference, distinct-2, and the oracle's rating where there is one.
    """
    texts = decode(actors.tokenizer, rollout.response_ids, rollout.response_mask)
    rated = {} if oracle is None else {"eval/oracle": float(oracle.rate(texts).double().mean())}
    return {
        "eval/score": float(judgement.scores.double().mean()),
        "eval/kl": float(_kl(rollout).mean()),
        "eval/distinct_2": distinct_n(texts, 2),
        **rated,
    }


def _kl(rollout: Rollout) -> Float[torch.Tensor, "B"]:
    """Nats of each response, Σ (log π − log π_ref)."""
    return masked_sum(k1(rollout.logp, rollout.ref_logp), rollout.response_mask)


def held_out(settings: Evaluation, prompts: PromptStream) -> tuple[Prompts, Stream]:
    """The prompts of every evaluation of a run, and the name of their noise."""
    count = min(settings.prompts, len(prompts.records))
    batch = prompts.batch(settings.stream, 0, count, "evaluation")
    return batch, ("evaluation", settings.stream)


def names(*, oracle: bool, dpo: bool, perplexity: bool = False, paid: bool = True) -> list[str]:
    """The numbers of a `report`, with an oracle, a DPO model, perplexities, and scores, or
    without."""
    rated = [*([PAID] if paid else []), "length", *(["oracle"] if oracle else [])]
    models = (*MODELS, DPO) if dpo else MODELS
    against = ("kl", "win_rate") if oracle else ("kl",)
    moved = [f"{model}/{what}" for model in models if model != "sft" for what in against]
    own = [f"{model}/{what}" for model in models for what in rated]
    distinct = [f"{model}/distinct_2" for model in models]
    return [*moved, *own, *distinct, *(PARTS if perplexity else ())]


def report(rows: list[Row]) -> dict[str, Measure]:
    """Mean and standard error of every number, and distinct-2 of each model's responses.

    The standard error of distinct-2 is the jackknife's over responses; those of perplexities, where
    rows hold their parts, are of a ratio.
    """
    found: dict[str, Measure] = {}
    for key, value in rows[0].items():
        if "/" in key and key not in OWN and not isinstance(value, str | bool):
            found[key] = summarise(torch.tensor([float(row[key]) for row in rows]))
    for name in (model for model in (*MODELS, DPO) if f"{model}/response" in rows[0]):
        texts = [row[f"{name}/response"] for row in rows]
        error = distinct_n_error(texts, 2)
        found[f"{name}/distinct_2"] = {"mean": distinct_n(texts, 2), "se": error, "n": len(rows)}
    return found | measures(rows)


def summarise(values: torch.Tensor) -> Measure:
    """Mean, standard error, and count."""
    n = len(values)
    se = float(values.double().std(unbiased=True) / n**0.5) if n > 1 else 0.0
    return {"mean": float(values.double().mean()), "se": se, "n": n}


def dpo_models(judge: OpenJudge) -> LogRatio | None:
    """The DPO model, and its reference, that a panel reads; None where it reads none."""
    for part in (judge.judge, judge.scorer) if isinstance(judge, Panel) else (judge,):
        if isinstance(part, Reading):
            return part.ratio
    return None

"""The Bradley–Terry side of the reward model: trained on pairs of answers, measured on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float

from tokencredit.console import say
from tokencredit.data.pairs import Pair, read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds, token_ids
from tokencredit.errors import require
from tokencredit.models.adapters.lora import adapted, merged
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.scorer import score_of_logits
from tokencredit.ops import without_gradient
from tokencredit.reports.figures import draw_pairs
from tokencredit.stages.trainer import SupervisedRun
from tokencredit.statistics.pair_numbers import pair_numbers
from tokencredit.store.files import write_json
from tokencredit.store.finite import check_scores
from tokencredit.streams import permutation, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.config import Config
    from tokencredit.settings import RewardModel
    from tokencredit.statistics.pair_numbers import PairNumbers

ROWS: Final = 16
"""Pairs scored in one forward pass."""


def fit_pairs(
    config: Config,
    model: PreTrainedModel,
    ids: TokenIds,
    records: Sequence[Record],
    out: Path,
    seed: int,
) -> tuple[PreTrainedModel, dict[str, object]]:
    """The reward model's own classifier on the pairs of these records (`fit_in_order`)."""
    settings = config.reward_model
    pairs, noted = fitting(records, ids, settings)
    run = SupervisedRun.of(config, "reward_model", out, seed)
    adapters = adapted(model, config.model.lora, "SEQ_CLS")
    return fit_in_order(run, adapters, ids.tokenizer, pairs, noted, settings.centre)


def fit_in_order(
    run: SupervisedRun,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    noted: Mapping[str, int],
    centre: float | None = None,
) -> tuple[PreTrainedModel, dict[str, object]]:
    """The model after TRL's RewardTrainer: log σ(score chosen − score rejected − margin) rises.

    The order of the pairs is drawn by the run's seed; its `max_tokens` takes the first of them.
    Adapters are merged. The figures have the number of pairs, and `noted` of those left out.
    """
    order = permutation(stream_key(run.seed, "reward order"), len(pairs))
    some = within([pairs[int(index)] for index in order], run.settings.max_tokens)
    trained, figures = run.fit(
        run.steps(len(some), sum(pair.tokens for pair in some) / len(some)),
        lambda common: reward_trainer(model, tokenizer, some, common, centre),
        {"pairs": len(some), "pairs_noted": dict(noted)},
    )
    return merged(trained), figures


def fitting(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase | TokenIds, settings: RewardModel
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs that `reward_model.max_length` lets pass, whole, and what was noted of the others.

    A pair is never cut: the end of an answer is where it is scored.
    """
    pairs, noted = read_pairs(records, tokenizer, settings.max_length)
    require(
        bool(pairs),
        "reward_model.max_length",
        settings.max_length,
        f"each of {len(records)} pairs is longer; raise it",
    )
    if noted["too long"]:
        say(
            f"reward model: {noted['too long']} of {len(records)} pairs are left out, longer than "
            f"reward_model.max_length = {settings.max_length} tokens"
        )
    return pairs, dict(noted)


def within(pairs: Sequence[Pair], budget: int | None) -> list[Pair]:
    """The first pairs, up to the one with which their tokens reach `budget`; None: all."""
    spent = accumulate((pair.tokens for pair in pairs), initial=0)
    limit = float("inf") if budget is None else budget
    return [pair for pair, before in zip(pairs, spent, strict=False) if before < limit]


def reward_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    common: dict[str, Any],
    centre: float | None,
) -> Any:
    """TRL's RewardTrainer of a model with one output, on pairs whose ids stay as they are."""
    import datasets
    from trl import RewardConfig, RewardTrainer

    datasets.disable_progress_bars()
    rows = [trainer_row(pair) for pair in pairs]
    if any(pair.margin for pair in pairs):
        rows = [row | {"margin": pair.margin or 0.0} for row, pair in zip(rows, pairs, strict=True)]
    return RewardTrainer(
        model=model,
        args=RewardConfig(
            **common,
            max_length=None,
            disable_dropout=True,
            center_rewards_coefficient=centre,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            remove_unused_columns=False,  # the sampler reads the lengths
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def trainer_row(pair: Pair) -> dict[str, Any]:
    """A pair in the columns of RewardTrainer, where each answer stands behind the prompt."""
    return {
        "chosen_ids": [*pair.prompt_ids, *pair.chosen_ids],
        "rejected_ids": [*pair.prompt_ids, *pair.rejected_ids],
        "length": pair.longest,
    }


def evaluate_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | TokenIds,
    records: Sequence[Record],
    settings: RewardModel,
    out: Path,
) -> dict[str, object]:
    """How well the model orders held-out pairs, written to evaluation.json and evaluation.png."""
    pairs, noted = fitting(records, tokenizer, settings)
    pairs = within(pairs, settings.max_tokens)
    unread = 0 if settings.score_at is ScoreAt.end else 1  # the end token
    scores = score_pairs(model, token_ids(tokenizer).tokenizer, pairs, unread)
    return measured("reward_model", scores, noted, out)


def measured(
    what: str,
    scores: tuple[Float[torch.Tensor, "N"], Float[torch.Tensor, "N"]],
    noted: Mapping[str, int],
    out: Path,
) -> dict[str, object]:
    """What the scores of the chosen and of the rejected answers of held-out pairs come to, written
    to evaluation.json and evaluation.png; the figures of the manifest.

    Raises `UserError` that names the stage, `what`, for a score that is not finite.
    """
    check_scores(what, torch.cat(scores))
    numbers = pair_numbers(scores[0].tolist(), scores[1].tolist())
    kept = {"schema_version": 1, **asdict(numbers), "noted": dict(noted)}
    write_json(out / "evaluation.json", kept)
    draw_pairs(numbers, out / "evaluation.png")
    return headline(numbers) | {"held_out_noted": dict(noted)}


def headline(numbers: PairNumbers) -> dict[str, object]:
    """The figures of the manifest: a few of the numbers in evaluation.json."""
    return {
        "accuracy": numbers.accuracy,
        "accuracy_low": numbers.accuracy_low,
        "accuracy_high": numbers.accuracy_high,
        "held_out": numbers.pairs,
        "held_out_loss": numbers.loss,
        "margin_mean": numbers.margin_mean,
        "calibration_error": numbers.calibration_error,
        "score_mean": numbers.score_mean,
        "score_std": numbers.score_std,
    }


@without_gradient
def score_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    unread: int = 0,
) -> tuple[Float[torch.Tensor, "N"], Float[torch.Tensor, "N"]]:
    """The scores of the chosen and of the rejected answers, as the classifier itself reads them.

    Without the last `unread` tokens of each.
    """
    model.eval()
    scores = torch.zeros(2, len(pairs))
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].longest)
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        rows = [[*pairs[i].prompt_ids, *pairs[i].chosen_ids] for i in some]
        rows += [[*pairs[i].prompt_ids, *pairs[i].rejected_ids] for i in some]
        rows = [row[: len(row) - unread] for row in rows]
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
        logits = model(**batch.to(model.device)).logits.float().cpu()
        scores[:, some] = score_of_logits(logits).view(2, len(some))
    return scores[0], scores[1]

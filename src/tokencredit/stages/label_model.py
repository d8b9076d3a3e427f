"""The labelled side of the reward model: a classifier of texts, with transformers' Trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds, token_ids
from tokencredit.models.adapters.lora import adapted, merged
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.scorer import score_of_logits
from tokencredit.stages.trainer import SupervisedRun
from tokencredit.store.finite import check_scores
from tokencredit.streams import integer, permutation, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.config import Config
    from tokencredit.settings import RewardModel


def fit_labels(
    config: Config,
    model: PreTrainedModel,
    ids: TokenIds,
    records: Sequence[Record],
    out: Path,
    seed: int,
) -> tuple[PreTrainedModel, dict[str, object]]:
    """The model after transformers' Trainer, with two outputs and cross-entropy."""
    from transformers import DataCollatorWithPadding

    accepted, noted = ids.accepted(records)
    rows = examples(accepted, ids, config.reward_model, seed, noted)
    adapters = adapted(model, config.model.lora, "SEQ_CLS")
    run = SupervisedRun.of(config, "reward_model", out, seed)
    trained, figures = run.fit_rows(adapters, rows, DataCollatorWithPadding(ids.tokenizer))
    return merged(trained), figures | ({"noted": dict(noted)} if noted else {})


def examples(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase | TokenIds,
    settings: RewardModel,
    seed: int,
    noted: Counter[str] | None = None,
) -> list[dict[str, Any]]:
    """Windows of the records in a shuffled order, at most as many as `max_tokens` allows.

    A window's length and place are pure functions of (seed, row). What is to be noted of the
    records' ids is added to `noted`.
    """
    writer = token_ids(tokenizer)
    rows: list[dict[str, Any]] = []
    budget = settings.max_tokens if settings.max_tokens is not None else float("inf")
    for index in permutation(stream_key(seed, "reward order"), len(records)):
        record = records[int(index)]
        key = stream_key(seed, "window length", record.row)
        length = integer(key, settings.min_length, settings.max_length + 1)
        ids, notes = scored_ids(record, writer, settings)
        if noted is not None:
            noted.update(notes)
        key = stream_key(seed, "window start", record.row)
        start = integer(key, 0, max(1, len(ids) - length + 1))
        rows.append({"input_ids": ids[start : start + length], "labels": record.label})
        budget -= len(rows[-1]["input_ids"])
        if budget <= 0:
            break
    return rows


def scored_ids(
    record: Record, ids: TokenIds, settings: RewardModel
) -> tuple[list[int], frozenset[str]]:
    """What is scored, up to where the score is read, and what is to be noted of it.

    That is the text, or prompt and answer as a policy says them. The rest of a chat template behind
    the last answer is left out: no response has it.
    """
    prompt, answer, notes = ids.example(record)
    read = [*prompt, *answer]
    return read if settings.score_at is ScoreAt.end or len(read) == 1 else read[:-1], notes


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | TokenIds,
    records: Sequence[Record],
    settings: RewardModel,
) -> dict[str, object]:
    """Accuracy on held-out records, read from their first `max_length` tokens; a score of 0 counts
    half."""
    import torch

    right, scores = 0.0, []
    model.eval()
    writer = token_ids(tokenizer)
    records, _ = writer.accepted(records)
    ids = [scored_ids(record, writer, settings)[0][: settings.max_length] for record in records]
    if settings.max_tokens is not None:
        total = list(accumulate(map(len, ids)))
        ids = ids[: max(1, sum(tokens <= settings.max_tokens for tokens in total))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        batch = writer.tokenizer.pad(
            {"input_ids": [ids[i] for i in chosen]}, return_tensors="pt", padding_side="right"
        ).to(model.device)
        with torch.no_grad():
            score = score_of_logits(model(**batch).logits.float()).tolist()
        scores += score
        right += sum(
            0.5 if s == 0 else (s > 0) == (records[i].label == 1)
            for s, i in zip(score, chosen, strict=True)
        )
    check_scores("reward_model", torch.tensor(scores))
    spread = float(torch.tensor(scores).std(unbiased=False))
    return {"accuracy": right / len(ids), "held_out": len(ids), "score_std": spread}

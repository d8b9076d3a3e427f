"""A reward model from sentiment labels, with transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokencredit.canonical import added
from tokencredit.data.prompts import conversation_ids
from tokencredit.data.records import Record
from tokencredit.errors import require
from tokencredit.models.base import base_of
from tokencredit.models.lora import adapted, merged
from tokencredit.models.model import load_classifier, load_tokenizer
from tokencredit.models.padding import ensure_pad, fit_embeddings
from tokencredit.models.sequences import ScoreAt
from tokencredit.stages.stage import Stage
from tokencredit.stages.training import (
    Training,
    progress_callback,
    step_count,
    train,
    trainer_settings,
)
from tokencredit.streams import integer, permutation, stream_key

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(slots=True, kw_only=True)
class RewardModel(Training):
    """The sentiment classifier whose score = logit(positive) − logit(negative) is the reward."""

    train: bool = True
    """False: `model.reward` is a finished classifier and is used as it is."""
    epochs: float = 2.0
    """Passes over the data."""
    batch_size: int = 32
    """Sequences of one optimizer step."""
    max_length: int = 128
    """Longest sequence, in tokens."""
    min_length: int = 8
    """Training texts are cut to a length drawn from [min_length, max_length] tokens, so that the
    model also knows short responses; set it to max_length for whole texts only."""
    held_out: int = 1000
    """Held-out reviews on which accuracy is measured; `max_tokens` limits their tokens too."""
    score_at: ScoreAt = added(ScoreAt.end)
    """end, or before_end: read one token before the end token, which training texts then lack; for
    finished classifiers (train=false) whose pad token was their end token."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        self.check("reward_model")
        require(
            1 <= self.min_length <= self.max_length,
            "reward_model.min_length",
            self.min_length,
            f"must lie between 1 and reward_model.max_length = {self.max_length}",
        )
        require(self.held_out >= 1, "reward_model.held_out", self.held_out, "must be >= 1")


class RewardModelStage(Stage):
    """The model that scores responses."""

    name: ClassVar[str] = "reward_model"
    version: ClassVar[int] = 2

    def parents(self) -> Mapping[str, Stage]:
        """The converted or initialised base model, where one is needed."""
        return base_of(self.context, self.context.config.model.reward_source()).parents()

    def inputs(self) -> Mapping[str, object]:
        """Settings, model, labelled records, and seed."""
        config, corpus = self.context.config, self.context.corpus
        for split in ("reward", "eval") if config.reward_model.train else ("eval",):
            corpus.labelled(split)  # said before anything is trained
        prints = corpus.fingerprints
        return {
            "reward_model": config.reward_model,
            "base": base_of(self.context, config.model.reward_source()).identity(),
            "dtype": config.model.dtype,
            "lora": config.model.lora,
            "data": prints["reward"],
            "eval": prints["eval"],
            "format": config.dataset.format,
            "stage_seed": config.stage_seed,
            **(config.model.quantization_inputs() if config.reward_model.train else {}),
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """Train and write a plain Hugging Face folder with the classifier."""
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        config = self.context.config
        settings = config.reward_model
        base = base_of(self.context, config.model.reward_source()).place()
        tokenizer = load_tokenizer(base.where, base.revision)
        labels = 2 if settings.train else None
        device = config.hardware.device.value
        quantized = config.model.quantized(device) if settings.train else None
        model = load_classifier(
            base.where, config.model.dtype, base.revision, settings.max_length, labels, quantized
        )
        ensure_pad(tokenizer)
        fit_embeddings(model, tokenizer)
        tokenizer.padding_side = "right"
        figures: dict[str, object] = {}
        if settings.train:
            records = self.context.corpus.labelled("reward")
            rows = examples(records, tokenizer, settings, config.stage_seed)
            mean_length = sum(len(row["input_ids"]) for row in rows) / len(rows)
            steps = step_count(settings, len(rows), mean_length)
            trainer = Trainer(
                model=adapted(model, config.model.lora, "SEQ_CLS"),
                args=TrainingArguments(
                    **trainer_settings(
                        settings, out, config.stage_seed, config.hardware.on_cpu(), steps
                    ),
                    train_sampling_strategy="group_by_length",
                ),
                train_dataset=Rows(rows),
                data_collator=DataCollatorWithPadding(tokenizer),
                callbacks=[progress_callback("reward model")],
            )
            figures |= {"steps": steps, "loss": train(trainer, "reward_model")}
            model = merged(trainer.model)
        held_out = self.context.corpus.labelled("eval")[: settings.held_out]
        figures |= evaluate(model, tokenizer, held_out, settings)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures


class Rows(list[dict[str, Any]]):
    """Tokenised texts, as a map-style dataset."""


def examples(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, settings: RewardModel, seed: int
) -> list[dict[str, Any]]:
    """Windows of the records in a shuffled order, at most as many as `max_tokens` allows.

    A window's length and place are pure functions of (seed, row).
    """
    rows: list[dict[str, Any]] = []
    budget = settings.max_tokens if settings.max_tokens is not None else float("inf")
    for index in permutation(stream_key(seed, "reward order"), len(records)):
        record = records[int(index)]
        key = stream_key(seed, "window length", record.row)
        length = integer(key, settings.min_length, settings.max_length + 1)
        ids = scored_ids(record, tokenizer, settings)
        key = stream_key(seed, "window start", record.row)
        start = integer(key, 0, max(1, len(ids) - length + 1))
        rows.append({"input_ids": ids[start : start + length], "labels": record.label})
        budget -= len(rows[-1]["input_ids"])
        if budget <= 0:
            break
    return rows


def with_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`ids` closed by the end token, since a finished response is scored there."""
    end = tokenizer.eos_token_id
    return ids if ids and ids[-1] == end else [*ids, end]


def ids_of(record: Record, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What is scored: the text, or the conversation as a policy says it, closed by the end token.

    The rest of a chat template behind the last answer is left out: no response has it.
    """
    if record.messages is None:
        return with_end(tokenizer(record.text)["input_ids"], tokenizer)
    answer = tokenizer(record.messages[-1]["content"], add_special_tokens=False)["input_ids"]
    return with_end([*conversation_ids(record.messages[:-1], tokenizer), *answer], tokenizer)


def scored_ids(
    record: Record, tokenizer: PreTrainedTokenizerBase, settings: RewardModel
) -> list[int]:
    """`ids_of`, up to where its score is read: nothing behind that place is seen."""
    ids = ids_of(record, tokenizer)
    return ids if settings.score_at is ScoreAt.end or len(ids) == 1 else ids[:-1]


def sentiment(logits: Tensor) -> Tensor:
    """The score of a classifier's (B, 2) logits, positive minus negative, or its (B, 1) output."""
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    settings: RewardModel,
) -> dict[str, object]:
    """Accuracy on held-out records, read from their first `max_length` tokens."""
    import torch

    right, scores = 0, []
    model.eval()
    ids = [scored_ids(record, tokenizer, settings)[: settings.max_length] for record in records]
    if settings.max_tokens is not None:
        total = list(accumulate(map(len, ids)))
        ids = ids[: max(1, sum(tokens <= settings.max_tokens for tokens in total))]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        batch = tokenizer.pad(
            {"input_ids": [ids[i] for i in chosen]}, return_tensors="pt", padding_side="right"
        ).to(model.device)
        with torch.no_grad():
            score = sentiment(model(**batch).logits.float()).tolist()
        scores += score
        right += sum((s > 0) == (records[i].label == 1) for s, i in zip(score, chosen, strict=True))
    spread = float(torch.tensor(scores).std(unbiased=False))
    return {"accuracy": right / len(ids), "held_out": len(ids), "score_std": spread}

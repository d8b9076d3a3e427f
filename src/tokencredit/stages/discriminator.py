"""The discriminator of TLCR: a classifier of tokens that learns from edits of rejected answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypedDict

import torch

from tokencredit.console import say
from tokencredit.data.edits import check_lengths
from tokencredit.data.edits import targets as targets_of
from tokencredit.data.pairs import Pair, as_rollout
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import require
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.judge import Judge
from tokencredit.models.adapters.lora import adapted, merged
from tokencredit.models.discriminator import CLASSES, Discriminator, check_classes, token_log_odds
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.weights import load_classifier
from tokencredit.models.passes.kernels import disable_dropout
from tokencredit.models.tokens.padding import ensure_pad, fit_embeddings
from tokencredit.ops import edit_loss, soft_label_loss
from tokencredit.reports.figures import draw_tokens
from tokencredit.rollout import padded
from tokencredit.stages.context import Context
from tokencredit.stages.judge_stage import StartingStage
from tokencredit.stages.revised_pairs import read_revised
from tokencredit.stages.revisions import RevisionsStage
from tokencredit.stages.stage import Stage
from tokencredit.stages.together import through
from tokencredit.statistics.token_numbers import Judged, TokenNumbers, token_numbers
from tokencredit.store.files import write_json
from tokencredit.store.finite import check_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from tokencredit.stages.trainer import Arguments

UNJUDGED: Final = -1.0
"""The target of a token that is not learnt from: of a prompt, an end token, or padding."""


class Row(TypedDict):
    """Both answers behind their prompt, with a target for each of their tokens but the end."""

    input_ids: list[int]
    """The prompt and the revised answer; the trainer reads this name for the length."""
    rejected_ids: list[int]
    targets: list[float]
    rejected_targets: list[float]


@dataclass(frozen=True, slots=True)
class Edited:
    """A rejected answer and its revision, which stands as the chosen one, and their targets."""

    pair: Pair
    rejected: tuple[float, ...]
    """0 for each token that was taken out, ½ for one that was kept; none for the end token."""
    revised: tuple[float, ...]
    """1 for each token that was put in, ½ for one that was kept; none for the end token."""


class DiscriminatorStage(StartingStage):
    """A sequence classifier with the outputs bad and good, read at every token; adapters, if any,
    are merged. Its folder has evaluation.json and evaluation.png of held-out revisions beside it.
    """

    name: ClassVar[str] = "discriminator"
    version: ClassVar[int] = 1

    def __init__(self, context: Context, judge: Judge | None = None) -> None:
        """The stage of `judge`, which must be a discriminator; without one, of the run's judge."""
        super().__init__(context, judge)
        self.judge_as(DiscriminatorJudge)

    def parents(self) -> Mapping[str, Stage]:
        """The revisions, and the SFT model or what that was made from."""
        return {**super().parents(), "revisions": RevisionsStage(self.context)}

    def train(self, out: Path) -> Mapping[str, object]:
        """Learn from the revisions, and measure on those that were held out."""
        config, place = self.context.config, self.place()
        tokenizer = load_tokenizer(place.where, place.revision)
        ensure_pad(tokenizer)
        ids, pad = TokenIds(tokenizer, config.dataset.special_tokens), int(tokenizer.pad_token_id)
        learnt, noted = self._pairs(ids, "revisions")
        held_out, held_out_noted = self._pairs(ids, "held_out")
        check_left(learnt, noted, self.longest())
        quantized = config.model.quantized(config.hardware.device.value)
        model = load_classifier(place, config.model.dtype, self.longest(), CLASSES, quantized)
        check_classes(model, "judge")
        fit_embeddings(model, tokenizer)
        disable_dropout(model)
        adapters, run = adapted(model, config.model.lora, "SEQ_CLS"), self.supervised(out)
        trained, figures = run.fit(
            run.steps(len(learnt), sum(each.pair.tokens for each in learnt) / len(learnt)),
            lambda common: edit_trainer(adapters, learnt, pad, common),
            {"pairs": len(learnt), "pairs_noted": noted},
        )
        model = merged(trained)
        if held_out:
            numbers = measured(Discriminator(model), held_out, pad)
            write_json(out / "evaluation.json", {"schema_version": 1, **asdict(numbers)})
            draw_tokens(numbers, out / "evaluation.png")
            figures |= headline(numbers)
        else:
            say("discriminator: no revision is held out, so its accuracy is not known")
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures | {"held_out": len(held_out), "held_out_noted": held_out_noted}

    def _pairs(self, ids: TokenIds, name: str) -> tuple[list[Edited], dict[str, int]]:
        """Rejected answers and their revisions of a file, as in-context ids, and how many were left
        out, and for what. A pair is never cut."""
        pairs, noted = read_revised(self, name, ids, self.longest())
        return [edited(pair, ids) for pair in pairs], noted


def check_left(pairs: Sequence[Edited], noted: Mapping[str, int], longest: int) -> None:
    """Raise where no pair is left to learn from; `noted` says why the others are not."""
    require(
        bool(pairs),
        "judge.training.max_length",
        longest,
        f"no revision is left to learn from ({dict(noted)}); raise it and model.context, or use "
        "another reviser",
    )


def edited(pair: Pair, ids: TokenIds) -> Edited:
    """The pair with a target for each token of both answers but their end.

    Labels are made of the very ids that are read, so they cannot stand beside the wrong tokens.
    """
    before, after = pair.rejected_ids[:-1], pair.chosen_ids[:-1]
    found = targets_of(before, after)
    check_lengths(
        found, (before, after), (ids.tokenizer.decode(before), ids.tokenizer.decode(after))
    )
    return Edited(pair, *found)


def training_row(each: Edited) -> Row:
    """What the trainer reads of a pair."""
    pair, begun = each.pair, [UNJUDGED] * len(each.pair.prompt_ids)
    return {
        "input_ids": [*pair.prompt_ids, *pair.chosen_ids],
        "rejected_ids": [*pair.prompt_ids, *pair.rejected_ids],
        "targets": [*begun, *each.revised, UNJUDGED],
        "rejected_targets": [*begun, *each.rejected, UNJUDGED],
    }


def batch_of(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    """Ids and targets (2n, S) of n pairs, right-padded: the revised answers, then the rejected."""
    said = [row["input_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
    targets = [row["targets"] for row in rows] + [row["rejected_targets"] for row in rows]
    ids, mask = padded(said, pad)
    wanted = torch.full(ids.shape, UNJUDGED)
    wanted[mask] = torch.tensor([target for row in targets for target in row])
    return {"input_ids": ids, "targets": wanted}


def batch_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch that `batch_of` has made."""
    odds, wanted = token_log_odds(model, batch["input_ids"]), batch["targets"]
    each = soft_label_loss(odds, wanted, wanted != UNJUDGED)
    revised, rejected = each.view(2, -1)
    return edit_loss(revised, rejected)


def edit_trainer(
    model: PreTrainedModel, pairs: Sequence[Edited], pad: int, common: Arguments
) -> Trainer:
    """transformers' Trainer with the loss of edits, on pairs of a rejected answer and its revision.

    Pairs of similar length are read together.
    """
    from transformers import Trainer, TrainingArguments

    class OnEdits(Trainer):  # type: ignore[misc]
        """The trainer, its loss exchanged."""

        def compute_loss(
            self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], **_: object
        ) -> torch.Tensor:
            # The head is read below the model's own forward pass, which accelerate would wrap.
            with self.accelerator.autocast():
                return through(self, model, lambda plain: batch_loss(plain, inputs))

    trainer = OnEdits(
        model=model,
        args=TrainingArguments(
            **common,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,  # all are of our own
        ),
        train_dataset=[training_row(each) for each in pairs],
        data_collator=lambda rows: batch_of(rows, pad),
    )
    # Else the losses of micro-batches would be added up, not averaged: the model's own forward pass
    # can divide by the tokens of a whole batch, and this loss does not.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def measured(model: Discriminator, pairs: Sequence[Edited], pad: int) -> TokenNumbers:
    """How well a discriminator tells the tokens of held-out pairs apart.

    Raises `UserError` where it says a number that is not finite.
    """
    prompts = [each.pair.prompt_ids for each in pairs]

    def judged(answers: list[list[int]], wanted: list[tuple[float, ...]]) -> list[Judged]:
        """What it says of the tokens of these answers to the prompts, which should be `wanted`."""
        rollout = as_rollout(prompts, answers, pad).to(model.model.device)
        odds = model.log_odds(rollout).cpu()
        check_scores("discriminator", odds)
        return [Judged(x[: len(y)].tolist(), y) for x, y in zip(odds, wanted, strict=True)]

    return token_numbers(
        judged([each.pair.chosen_ids for each in pairs], [each.revised for each in pairs]),
        judged([each.pair.rejected_ids for each in pairs], [each.rejected for each in pairs]),
    )


def headline(numbers: TokenNumbers) -> dict[str, object]:
    """The figures of the manifest: a few of the numbers in evaluation.json."""
    names = [
        *("accuracy", "accuracy_low", "accuracy_high", "edited", "good_share"),
        *("three_class_accuracy", "authors_revised", "authors_rejected", "f1"),
        "calibration_error",
    ]
    return {name: getattr(numbers, name) for name in names} | {"held_out_loss": numbers.loss}

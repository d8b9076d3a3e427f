"""FIGA: the SFT model after training on the tokens that revisions put in and took out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypedDict

import torch
from jaxtyping import Bool, Float

from tokencredit.data.edits import targets as targets_of
from tokencredit.data.pairs import Pair
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError, require
from tokencredit.models.adapters.lora import adapted, merged
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.passes.kernels import disable_dropout
from tokencredit.models.tokens.padding import ensure_pad
from tokencredit.ops import figa_terms, liked_of, without_gradient
from tokencredit.rollout import padded
from tokencredit.settings import FIGA
from tokencredit.stages.revised_pairs import read_revised, revised_parents
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.stages.trainer import SupervisedRun, seed_generators
from tokencredit.store.finite import check_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from tokencredit.stages.trainer import Arguments

ROWS: Final = 16
"""Pairs of one forward pass over held-out ones."""
Batch = dict[str, torch.Tensor]


class Row(TypedDict):
    """Both answers behind their prompt, and which of their tokens are learnt from."""

    input_ids: list[int]
    """The prompt and the revised answer; the trainer reads this name for the length."""
    rejected_ids: list[int]
    put_in: list[bool]
    taken_out: list[bool]


class FIGAStage(Stage):
    """The SFT model, trained further; a plain Hugging Face folder, adapters merged."""

    makes_policy: ClassVar[bool] = True
    name: ClassVar[str] = "figa"
    version: ClassVar[int] = 1

    @property
    def settings(self) -> FIGA:
        """The algorithm whose stage it is."""
        found = self.context.config.algorithm
        if not isinstance(found, FIGA):
            raise UserError(f"algorithm = {type(found).__name__}: must be algorithm=figa")
        return found

    def parents(self) -> Mapping[str, Stage]:
        """The SFT model, and the revisions."""
        return {"sft": SFTStage(self.context), **revised_parents(self.context)}

    def inputs(self) -> Mapping[str, object]:
        """Its settings, number format, adapters, and seed; the pairs are all in the revisions."""
        config = self.context.config
        return {
            "algorithm": self.settings,
            "longest": self.longest(),
            "dtype": config.model.dtype,
            "lora": config.model.lora,
            "special_tokens": config.dataset.special_tokens,
            "stage_seed": config.stage_seed,
            **config.model.quantization_inputs(),
        }

    def longest(self) -> int:
        """The most tokens of prompt and answer."""
        return min(self.settings.training.max_length, self.context.config.model.context)

    def run(self, out: Path) -> Mapping[str, object]:
        """Train, and measure the loss of held-out revisions."""
        config, place = self.context.config, Place(self.made("sft"))
        tokenizer = load_tokenizer(place.where, place.revision)
        ensure_pad(tokenizer)
        ids, pad = TokenIds(tokenizer, config.dataset.special_tokens), int(tokenizer.pad_token_id)
        learnt, noted = read_revised(self, "revisions", ids, self.longest())
        held_out, held_out_noted = read_revised(self, "held_out", ids, self.longest())
        require(
            bool(learnt),
            "algorithm.training.max_length",
            self.longest(),
            f"no revision is left to learn from ({noted}); raise it and model.context, or use "
            "another reviser",
        )
        seed_generators(config.stage_seed)
        quantized = config.model.quantized(config.hardware.device.value)
        model = load_causal(place, config.model.dtype, self.longest(), quantized)
        disable_dropout(model)
        loss = Loss(self.settings, frozenset({ids.end, ids.turn_end}), pad)
        adapters = adapted(model, config.model.lora)
        run = SupervisedRun.of(config, "algorithm.training", out, config.stage_seed)
        trained, figures = run.fit(
            run.steps(len(learnt), sum(pair.tokens for pair in learnt) / len(learnt)),
            lambda common: figa_trainer(adapters, learnt, loss, common),
            {"pairs": len(learnt), "pairs_noted": noted},
        )
        model = merged(trained)
        if held_out:
            figures["held_out_loss"] = held_out_loss(model, held_out, loss)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures | {"held_out": len(held_out), "held_out_noted": held_out_noted}


@dataclass(frozen=True, slots=True)
class Loss:
    """What is learnt of a batch of pairs, and how they become one."""

    settings: FIGA
    ends: frozenset[int]
    """The end token, and that of a turn."""
    pad: int

    def row(self, pair: Pair) -> Row:
        """What the trainer reads of a pair, the revised answer as the chosen one.

        The end token of the revised answer is among those that were put in, where it has one; that
        of the rejected one is not learnt from.
        """
        before, after = self._said(pair.rejected_ids), self._said(pair.chosen_ids)
        found, begun = targets_of(before, after), [False] * len(pair.prompt_ids)
        ended, other = len(pair.chosen_ids) - len(after), len(pair.rejected_ids) - len(before)
        return {
            "input_ids": [*pair.prompt_ids, *pair.chosen_ids],
            "rejected_ids": [*pair.prompt_ids, *pair.rejected_ids],
            "put_in": [*begun, *(target == 1 for target in found[1]), *[True] * ended],
            "taken_out": [*begun, *(target == 0 for target in found[0]), *[False] * other],
        }

    def _said(self, answer: list[int]) -> list[int]:
        """An answer without its end token."""
        return answer[:-1] if answer[-1] in self.ends else answer

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Ids and marks (2n, S) of n pairs, right-padded: the revised answers, then the rejected.

        Of the first half no token was taken out, of the second none was put in.
        """
        said = [row["input_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        ids, mask = padded(said, self.pad)
        marks = {"put_in": torch.zeros_like(mask), "taken_out": torch.zeros_like(mask)}
        half = len(rows)
        marks["put_in"][:half][mask[:half]] = torch.tensor([x for r in rows for x in r["put_in"]])
        marks["taken_out"][half:][mask[half:]] = torch.tensor(
            [x for r in rows for x in r["taken_out"]]
        )
        return {"input_ids": ids, **marks}

    def terms(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Numerator and denominator of a batch (`ops.figa_terms`), under the model's weights."""
        settings = self.settings
        nll, put_in, taken_out = marked_nll(model, batch)
        return figa_terms(
            nll,
            put_in,
            taken_out,
            gate=settings.gate,
            alpha=settings.alpha,
            beta=settings.beta,
        )

    @without_gradient
    def gated(self, model: torch.nn.Module, batch: Batch) -> Batch:
        """The batch, of what was taken out only what the gate lets pass under these weights."""
        nll, _, taken_out = marked_nll(model, batch)
        liked = liked_of(nll, taken_out, self.settings.gate)
        passed = torch.zeros_like(batch["taken_out"])
        passed[:, 1:][_marked(batch)] = liked
        return {**batch, "taken_out": passed}


def _marked(batch: Batch) -> Bool[torch.Tensor, "B S"]:
    """Which tokens behind the first of a row are learnt from."""
    return (batch["put_in"] | batch["taken_out"])[:, 1:]


def marked_nll(
    model: torch.nn.Module, batch: Batch
) -> tuple[Float[torch.Tensor, "n"], Bool[torch.Tensor, "n"], Bool[torch.Tensor, "n"]]:
    """−log π of the n tokens of a batch that are learnt from, and which of them were put in and
    which taken out. `model` is a language model; logits of other tokens are not used."""
    wanted = _marked(batch)
    # Causal attention never looks at padding on the right, and positions count from the left.
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(
        logits[wanted].float(), batch["input_ids"][:, 1:][wanted], reduction="none"
    )
    return nll, batch["put_in"][:, 1:][wanted], batch["taken_out"][:, 1:][wanted]


def figa_trainer(
    model: PreTrainedModel, pairs: Sequence[Pair], loss: Loss, common: Arguments
) -> Trainer:
    """transformers' Trainer with FIGA's loss, pairs of similar length read together.

    The divisor is that of the whole batch of an optimizer step. Where that is read in several
    passes, the gate is asked in a pass before them, with the same weights.
    """
    from transformers import Trainer, TrainingArguments

    class OnTokens(Trainer):  # type: ignore[misc]
        """The trainer, its loss exchanged."""

        def get_batch_samples(
            self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
        ) -> tuple[list[Batch], torch.Tensor | None]:
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            if len(batches) < 2:
                return batches, None
            with self.compute_loss_context_manager():
                gated = [loss.gated(self.model, self._prepare_inputs(each)) for each in batches]
            counts = [(each["put_in"] | each["taken_out"]).sum() for each in gated]
            return gated, torch.stack(counts).sum()

        def compute_loss(
            self,
            model: torch.nn.Module,
            inputs: Batch,
            num_items_in_batch: torch.Tensor | None = None,
            **_: object,
        ) -> torch.Tensor:
            total, count = loss.terms(model, inputs)
            whole = count if num_items_in_batch is None else num_items_in_batch
            return total / whole.clamp(min=1)

    trainer = OnTokens(
        model=model,
        args=TrainingArguments(
            **common,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,  # all are of our own
        ),
        train_dataset=[loss.row(pair) for pair in pairs],
        data_collator=loss.batch,
    )
    # The losses of passes are added up, not averaged: each is divided by the whole batch's tokens.
    trainer.model_accepts_loss_kwargs = True
    return trainer


@without_gradient
def held_out_loss(model: PreTrainedModel, pairs: Sequence[Pair], loss: Loss) -> float:
    """The loss of all held-out pairs as one batch.

    Raises `UserError` where it is not finite.
    """
    model.eval()
    total, count = torch.zeros(()), torch.zeros((), dtype=torch.long)
    for start in range(0, len(pairs), ROWS):
        batch = loss.batch([loss.row(pair) for pair in pairs[start : start + ROWS]])
        found = loss.terms(model, {k: value.to(model.device) for k, value in batch.items()})
        total, count = total + found[0].cpu(), count + found[1].cpu()
    check_scores("figa", total[None])
    return float(total / count.clamp(min=1))

"""Supervised fine-tuning on demonstrations, with TRL's SFTTrainer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from tokencredit.console import say
from tokencredit.data.formats import Holds
from tokencredit.data.pairs import read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import adapted, merged
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.tokens.ends import name_ends, special_ids
from tokencredit.models.tokens.padding import ensure_pad, fit_embeddings
from tokencredit.ops import without_gradient
from tokencredit.settings import SFT
from tokencredit.stages.base_model import base_of
from tokencredit.stages.speech import departures
from tokencredit.stages.stage import Stage
from tokencredit.stages.trainer import (
    Arguments,
    SupervisedRun,
    may_only_warm_up,
    seed_generators,
    step_count,
)
from tokencredit.store.finite import check_scores
from tokencredit.training_settings import Training

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer


IGNORED: Final = -100
"""The label of a token that the loss leaves out."""


class SFTStage(Stage):
    """The policy before RL, and the reference it is held to."""

    makes_policy: ClassVar[bool] = True
    name: ClassVar[str] = "sft"
    version: ClassVar[int] = 1

    def revision(self) -> int:
        """Since version 2 adapters are drawn from `stage_seed`, and stages in which the learning
        rate only rises begin above 0. Version 3 makes the ids of prompts with completions and of
        conversations as rollouts have them; of texts and of pairs they were the same."""
        config = self.context.config
        if not config.sft.train:
            return self.version
        if config.dataset.reader().holds in {Holds.answers, Holds.conversations}:
            return 3
        return 2 if config.model.lora.enabled or self._may_only_warm_up() else self.version

    def _may_only_warm_up(self) -> bool:
        """Said without a tokenizer: every text has at least one token, and is cut at max_length."""
        sft, texts = self.context.config.sft, self.context.corpus.size("sft")
        sequences = texts // sft.max_length if sft.packing else texts
        return may_only_warm_up(sft, sequences, sft.max_length)

    @property
    def training(self) -> Training | None:
        """Its section, unless a finished model is taken."""
        settings = self.context.config.sft
        return settings if settings.train else None

    def parents(self) -> Mapping[str, Stage]:
        """The converted or initialised base model, where one is needed."""
        return base_of(self.context, self.context.config.model.policy).parents()

    def inputs(self) -> Mapping[str, object]:
        """The model, and what it is trained with, if it is."""
        config = self.context.config
        model: dict[str, object] = {
            "base": base_of(self.context, config.model.policy).identity(),
            "dtype": config.model.dtype,
        }
        model |= departures(self.context, config.model.policy)
        if not config.sft.train:
            return {**model, "train": False}
        self.context.corpus.check_answers(
            "supervised fine-tuning", "start from the policy as it is (sft.train=false)"
        )
        return {
            **model,
            "sft": config.sft,
            "lora": config.model.lora,
            "data": self.context.corpus.fingerprints["sft"],
            "format": config.dataset.format,
            "stage_seed": config.stage_seed,
            **config.model.quantization_inputs(),
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """Write a plain Hugging Face folder; fine-tuned unless `sft.train` is false."""
        config = self.context.config
        base = base_of(self.context, config.model.policy).place()
        tokenizer = load_tokenizer(base.where, base.revision)
        ensure_pad(tokenizer)
        ids = TokenIds(tokenizer, config.dataset.special_tokens)
        ids.check(self.context.corpus.records())
        context = config.sft.max_length if config.sft.train else config.model.context
        device = config.hardware.device.value
        quantized = config.model.quantized(device) if config.sft.train else None
        model = load_causal(base, config.model.dtype, context, quantized)
        fit_embeddings(model, tokenizer)
        special = special_ids(tokenizer, model)
        figures: dict[str, object] = {"steps": 0}
        self._check_prompts(ids)
        seed_generators(config.stage_seed)
        if config.sft.train:
            model, figures = self._fine_tune(model, ids, out)
        name_ends(model, special)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures

    def _check_prompts(self, ids: TokenIds) -> None:
        """Raise now, and not after this stage, if prompts leave no room for responses."""
        context = self.context
        if context.config.algorithm.rolls_out:
            context.prompts(context.corpus.parts["rl"], ids)

    def _fine_tune(
        self, model: PreTrainedModel, ids: TokenIds, out: Path
    ) -> tuple[PreTrainedModel, dict[str, object]]:
        config = self.context.config
        records = answered_once(self.context.corpus.parts["sft"])
        steps, dataset, noted = demonstrations(records, ids, config.sft)
        adapters = adapted(model, config.model.lora)
        trained, figures = SupervisedRun.of(config, "sft", out, config.stage_seed).fit(
            steps,
            lambda common: sft_trainer(adapters, ids.tokenizer, dataset, config.sft, common),
        )
        others = answered_once(self.context.corpus.parts["eval"])
        rows = config.sft.micro_batch_size or config.sft.batch_size
        figures |= noted | held_out_loss(trained, others, ids, config.sft.max_length, rows)
        return merged(trained), figures


def sft_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    sft: SFT,
    common: Arguments,
) -> SFTTrainer:
    """TRL's SFTTrainer, on demonstrations whose ids stay as they are."""
    from transformers import Trainer
    from trl import SFTConfig
    from trl import SFTTrainer as Base

    class LeanTrainer(Base):  # type: ignore[misc]
        """Same loss, without every token's entropy and accuracy, which cost half the time."""

        compute_loss = Trainer.compute_loss

    return LeanTrainer(
        model=model,
        args=SFTConfig(
            **common,
            max_length=sft.max_length,
            packing=sft.packing,
            packing_strategy="wrapped",
            shuffle_dataset=True,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def answered_once(records: Sequence[Record]) -> list[Record]:
    """One record of each row: of several pairs the first, whose answer is the best."""
    return list({record.row: record for record in reversed(records)}.values())[::-1]


def demonstrations(
    records: Sequence[Record], ids: TokenIds, sft: SFT
) -> tuple[int, Dataset, dict[str, object]]:
    """How many steps to train, the demonstrations they need, in TRL's columns, and what was noted.

    Of pairs, that is also how many were left out for what. `cut`: how many answers behind a prompt
    are cut at `sft.max_length`.
    """
    import datasets

    datasets.disable_progress_bars()
    accepted, noted = ids.accepted(records)
    sample = accepted[:: max(1, len(accepted) // 200)]
    lengths = [len(ids.opened(record.text)) + 1 for record in sample]
    if not sft.packing:
        lengths = [min(length, sft.max_length) for length in lengths]
    mean_length = sum(lengths) / len(lengths)
    sequence_tokens = float(sft.max_length) if sft.packing else mean_length
    sequences = len(accepted) * mean_length / sequence_tokens
    steps = step_count(sft, int(sequences), sequence_tokens)
    # Enough records for the steps with a margin; the rest need not be tokenised.
    needed = int(1.2 * steps * sft.batch_size * sequence_tokens / mean_length) + sft.batch_size
    some = accepted[:needed]
    found: dict[str, object]
    if some[0].rejected is None:
        examples = [ids.example(record) for record in some]
        both = [(prompt, answer) for prompt, answer, _ in examples]
        noted.update(note for *_, notes in examples for note in notes)
        cut = say_cut(both, sft)
        found = ({"noted": dict(noted)} if noted else {}) | ({"cut": cut} if cut else {})
    else:
        pairs, counts = read_pairs(some, ids, sys.maxsize)
        both = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
        found = {"pairs_noted": {**noted, **counts}, "cut": say_cut(both, sft)}
    rows = [_row(prompt, answer) for prompt, answer in both]
    return steps, datasets.Dataset.from_list(rows), found


def say_cut(both: Sequence[tuple[list[int], list[int]]], sft: SFT, first: str = "") -> int:
    """How many answers behind a prompt are cut at `sft.max_length`, which is said.

    `both` are prompts and answers; texts have no prompt, and are cut as a matter of course. Raises
    `UserError` if nothing is left of any answer.
    """
    limit = sys.maxsize if sft.packing else sft.max_length
    asked = [(len(prompt), len(answer)) for prompt, answer in both if prompt]
    cut = sum(prompt + answer > limit for prompt, answer in asked)
    lost = sum(prompt >= limit for prompt, _ in asked)
    if both and lost == len(both):
        raise UserError(
            f"sft.max_length = {limit}: no prompt leaves room for its completion; raise "
            "sft.max_length and model.context, or shorten the prompts"
        )
    if cut:
        say(
            f"sft.max_length = {limit}: {cut} of {first}{len(both)} demonstrations are longer and "
            f"lose the end of their answer, {lost} of them all of it"
        )
    return cut


def _row(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    """Ids of which the answer alone is learnt. TRL would make other ids of texts and messages."""
    return {"input_ids": [*prompt, *answer], "labels": [*[IGNORED] * len(prompt), *answer]}


RECORDS: Final = 128
"""Held-out records that are read: enough for a standard error of some hundredths of a nat."""


@without_gradient
def held_out_loss(
    model: PreTrainedModel, records: Sequence[Record], ids: TokenIds, longest: int, rows: int
) -> dict[str, object]:
    """Cross-entropy in nats a token of the first held-out records, `rows` in one pass.

    As in training, texts are cut at `longest` tokens and prompts are read and not counted. Nothing
    where no token is left.
    """
    both = _demonstrations(records[:RECORDS], ids)
    cut = [(prompt, answer[: max(longest - len(prompt), 0)]) for prompt, answer in both]
    kept = sorted((pair for pair in cut if pair[1]), key=lambda pair: len(pair[0]) + len(pair[1]))
    total, count = torch.zeros(()), 0
    model.eval()
    for start in range(0, len(kept), rows):
        some = kept[start : start + rows]
        width = max(len(prompt) + len(answer) for prompt, answer in some)
        read = torch.zeros(len(some), width, dtype=torch.long)
        mask, said = torch.zeros_like(read), torch.zeros_like(read, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(some):
            end = len(prompt) + len(answer)
            read[row, :end] = torch.tensor([*prompt, *answer])
            mask[row, :end] = 1
            said[row, len(prompt) : end] = True
        read, mask, said = (x.to(model.device) for x in (read, mask, said))
        logits = model(input_ids=read, attention_mask=mask).logits[:, :-1].float()
        chosen = said[:, 1:]  # the first token of a text has nothing before it
        losses = torch.nn.functional.cross_entropy(
            logits[chosen], read[:, 1:][chosen], reduction="sum"
        )
        total, count = total + losses.cpu(), count + int(chosen.sum())
    if not count:
        return {}
    check_scores("sft", total[None])
    return {"held_out": len(kept), "held_out_tokens": count, "held_out_loss": float(total) / count}


def _demonstrations(records: Sequence[Record], ids: TokenIds) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each record that has one; of pairs, the better answer."""
    paired = [record for record in records if record.rejected is not None]
    if paired:
        pairs, _ = read_pairs(paired, ids, sys.maxsize)
        return [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    refused = ids.refusals(records)
    return [ids.example(record)[:2] for record in records if record.row not in refused]

"""The advantage model: adapters and a head that learn from pairs of answers in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict, cast

import torch

from tokencredit.console import say
from tokencredit.data.pairs import Pair, read_pairs, usable
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.data.word_classes import shipped_classes
from tokencredit.errors import require
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.models.adapters.lora import Lora, all_linear
from tokencredit.models.advantage import save_advantages, with_head
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.passes.games import Duel, Games, PiContext, Ties
from tokencredit.models.tokens.padding import ensure_pad
from tokencredit.ops import game_loss, without_gradient
from tokencredit.settings import PairSource
from tokencredit.stages.judge_stage import JudgeStage
from tokencredit.stages.sampled_pairs import SampledPairsStage, load_sampled
from tokencredit.stages.stage import Stage
from tokencredit.stages.together import through
from tokencredit.stages.token_effects import told_of, write_effects
from tokencredit.statistics.judge_numbers import GameNumbers, game_numbers
from tokencredit.store.files import write_json
from tokencredit.store.finite import check_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from tokencredit.models.advantage_model import AdvantageModel
    from tokencredit.stages.trainer import Arguments

NO_PAIRS = (
    "; advantages are learnt from pairs of answers to one prompt: let the SFT model write them, "
    "which the reward model orders (dpo.pairs=sampled)"
)
OF_DATA = ("data", "eval", "format")
"""Inputs that sampled pairs have in the key of the stage that makes them."""
OUTCOMES = "outcomes"
MEASURED_TOGETHER = 8
"""Pairs of one pass where nothing is learnt."""


class Row(TypedDict):
    """A pair as the trainer reads it."""

    input_ids: list[int]
    """The text of the game in its first order; the trainer reads this name for the length."""
    duel: Duel
    outcome: float
    """The reward of the chosen answer: 1, or 0 for a tie."""


class AdvantageStage(JudgeStage):
    """Adapters of the SFT model and a head. Its folder has evaluation.json of held-out pairs beside
    them: the squared error, the share of winners that are named, and the gap of the two orders; and
    advantages.csv of the tokens of the first of them.
    """

    name: ClassVar[str] = "advantage"
    version: ClassVar[int] = 1

    @property
    def settings(self) -> AdvantageJudge:
        """The judge whose stage it is."""
        return self.judge_as(AdvantageJudge)

    def parents(self) -> Mapping[str, Stage]:
        """What it starts from, and what has made its pairs: those of dpo.pairs, as DPO's."""
        if self.of_sampled():
            return {**super().parents(), "sampled_pairs": SampledPairsStage(self.context)}
        return super().parents()

    def inputs(self) -> Mapping[str, object]:
        """Its settings, number format, and seed; the pairs, where no stage before it says so."""
        config, judge = self.context.config, self.settings
        names = "rank", "centred", "lora_rank", "lora_alpha", "pi_context", "ties", "separator"
        given = {
            **super().inputs(),
            **{name: getattr(judge, name) for name in names},
            "longest": self.longest(),
            "special_tokens": config.dataset.special_tokens,
            **config.model.quantization_inputs(),
        }
        if self.of_sampled():
            return {name: value for name, value in given.items() if name not in OF_DATA}
        self.context.corpus.check_pairs("reward", NO_PAIRS)  # said before anything is trained
        if judge.effects:
            given |= {"effects": judge.effects, "word_classes": shipped_classes().fingerprint}
        return given

    def of_sampled(self) -> bool:
        """Whether its pairs are sampled, and not the data's."""
        return self.context.config.dpo.pairs is PairSource.sampled

    def longest(self) -> int:
        """The most tokens of a prompt with both answers and what stands between them."""
        return min(self.training.max_length, self.context.config.model.context)

    def train(self, out: Path) -> Mapping[str, object]:
        """Learn from the pairs, and measure on those that were held out."""
        config, sft = self.context.config, self.made("sft")
        tokenizer = load_tokenizer(sft)
        ensure_pad(tokenizer)
        ids, pad = TokenIds(tokenizer, config.dataset.special_tokens), int(tokenizer.pad_token_id)
        separator = self.separator(ids)
        learnt, noted = self.to_learn(ids, separator)
        held_out, held_out_noted = self.games("held_out", ids, separator)
        table = Table(separator, pad, self.settings.pi_context)
        advantages, run = self.model(sft, tokenizer), self.supervised(out)
        trained, figures = run.fit(
            run.steps(len(learnt), sum(2 * len(row["input_ids"]) for row in learnt) / len(learnt)),
            lambda common: game_trainer(advantages, learnt, table, common),
            {"pairs": len(learnt), "pairs_noted": noted},
        )
        model = cast("AdvantageModel", trained).eval()
        some = measured(model, learnt[: max(1, len(held_out))], table)
        figures |= {"train_mse": some.mse}
        if held_out:
            numbers = asdict(measured(model, held_out, table))
            write_json(out / "evaluation.json", {"schema_version": 1, **numbers})
            figures |= {name: each for name, each in numbers.items() if name != "pairs"}
        else:
            say("advantage: no pair is held out, so its error is not known")
        if self.settings.effects and not self.of_sampled():
            figures |= self.effects(model, ids, out)
        save_advantages(model, out, sft)
        tokenizer.save_pretrained(out)
        return figures | {"held_out": len(held_out), "held_out_noted": held_out_noted}

    def effects(self, model: AdvantageModel, ids: TokenIds, out: Path) -> dict[str, object]:
        """Write the advantages of the tokens of held-out pairs; how many there are of these."""
        most, pad = self.settings.effects, int(ids.tokenizer.pad_token_id)
        told, noted = told_of(self.records("held_out"), ids, self.longest(), most)
        return write_effects(model, told, noted, pad, out)

    def adapters(self) -> Lora:
        """rsLoRA on all linear layers."""
        return all_linear(self.settings.lora_rank, self.settings.lora_alpha)

    def model(self, sft: Path, tokenizer: PreTrainedTokenizerBase) -> AdvantageModel:
        """The SFT model with fresh adapters and a fresh head."""
        judge = self.settings
        model = self.adapted_sft(sft, tokenizer, self.longest())
        return with_head(model, judge.rank, tokenizer, centred=judge.centred)

    def records(self, name: str) -> Sequence[Record]:
        """The data's pairs to learn from ("train") or to measure on ("held_out")."""
        corpus = self.context.corpus
        if name == "train":
            return corpus.pairs("reward", NO_PAIRS)
        return [record for record in corpus.parts["eval"] if record.rejected is not None]

    def separator(self, ids: TokenIds) -> list[int]:
        """What stands between two answers; the data's prompts are conversations, or none is."""
        spoken = not self.of_sampled() and any(  # sampled ones continue texts
            record.messages is not None for record in self.records("train")
        )
        return ids.between(self.settings.separator, spoken=spoken)

    def pairs(self, name: str, ids: TokenIds) -> tuple[list[Pair], Counter[str]]:
        """Pairs to learn from ("train") or to measure on ("held_out"), and what was noted."""
        if self.of_sampled():
            return usable(load_sampled(self.made("sampled_pairs"), name), self.longest())
        return read_pairs(self.records(name), ids, self.longest())

    def to_learn(self, ids: TokenIds, separator: Sequence[int]) -> tuple[list[Row], dict[str, int]]:
        """The games to learn from, and what was noted; `UserError` where none is left."""
        rows, noted = self.games("train", ids, separator)
        require(
            bool(rows),
            "judge.training.max_length",
            self.longest(),
            f"no pair is left to learn from ({noted}); raise it and model.context, or use other "
            "pairs",
        )
        return rows, noted

    def games(
        self, name: str, ids: TokenIds, separator: Sequence[int]
    ) -> tuple[list[Row], dict[str, int]]:
        """As `pairs`, as games; says how many are too long."""
        rows, noted = self.rows(*self.pairs(name, ids), separator)
        if "too long" in noted:
            say(
                f"advantage: {noted['too long']} pairs are left out, whose prompt and answers have "
                f"more than {self.longest()} tokens together"
            )
        return rows, noted

    def rows(
        self, pairs: Sequence[Pair], noted: Mapping[str, int], separator: Sequence[int]
    ) -> tuple[list[Row], dict[str, int]]:
        """The pairs as games, and how many were left out, and for what.

        A pair that is longer than a game may be is left out whole: no answer is ever cut.
        """
        rows = rows_of(pairs, separator)
        kept = [row for row in rows if len(row["input_ids"]) <= self.longest()]
        found = Counter(noted)
        found["too long"] += len(rows) - len(kept)
        if self.settings.ties is Ties.drop:
            found["tie"] = sum(row["outcome"] == 0 for row in kept)
            kept = [row for row in kept if row["outcome"] != 0]
        return kept, {what: count for what, count in found.items() if count}


class Table:
    """What games are made with: the separator, the padding, and the context of the policy."""

    def __init__(self, separator: Sequence[int], pad: int, context: PiContext) -> None:
        """Of one stage."""
        self.separator, self.pad, self.context = separator, pad, context

    def batch(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The games of some pairs in both orders, and their outcomes, as named tensors."""
        games = Games.of([row["duel"] for row in rows], self.separator, self.pad, self.context)
        won = torch.tensor([row["outcome"] for row in rows])
        tensors: dict[str, torch.Tensor] = {f.name: getattr(games, f.name) for f in fields(games)}
        return tensors | {OUTCOMES: torch.cat([won, -won])}


def rows_of(pairs: Sequence[Pair], separator: Sequence[int]) -> list[Row]:
    """Pairs as games. With margins in the data, one of 0, or none, is a tie."""
    margins = any(pair.margin is not None for pair in pairs)
    return [
        {
            "input_ids": [*pair.prompt_ids, *pair.chosen_ids, *separator, *pair.rejected_ids],
            "duel": Duel(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids),
            "outcome": float(not margins or bool(pair.margin)),
        }
        for pair in pairs
    ]


def games_of(batch: Mapping[str, torch.Tensor]) -> Games:
    """The games of a batch that `Table.batch` has made."""
    return Games(**{f.name: batch[f.name] for f in fields(Games)})


def game_trainer(
    model: AdvantageModel, rows: Sequence[Row], table: Table, common: Arguments
) -> Trainer:
    """transformers' Trainer with the loss of games; pairs of similar length are read together."""
    from transformers import Trainer, TrainingArguments

    class OnGames(Trainer):  # type: ignore[misc]
        """The trainer, its loss exchanged."""

        def compute_loss(
            self, model: AdvantageModel, inputs: Mapping[str, torch.Tensor], **_: object
        ) -> torch.Tensor:
            with self.accelerator.autocast():
                said = through(self, model, lambda plain: plain.outcomes(games_of(inputs)))
            return game_loss(said, inputs[OUTCOMES])

    trainer = OnGames(
        model=cast("PreTrainedModel", model),
        args=TrainingArguments(
            **common,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,  # all are of our own
        ),
        train_dataset=list(rows),
        data_collator=table.batch,
    )
    # Else the losses of micro-batches would be added up, not averaged.
    trainer.model_accepts_loss_kwargs = False
    return trainer


@without_gradient
def measured(model: AdvantageModel, rows: Sequence[Row], table: Table) -> GameNumbers:
    """How well the model says who wins these pairs.

    Raises `UserError` where it says a number that is not finite.
    """
    there, back, residual = list[float](), list[float](), 0.0
    device = model.head.up.device
    for start in range(0, len(rows), MEASURED_TOGETHER):
        batch = table.batch(rows[start : start + MEASURED_TOGETHER])
        games = games_of(batch).to(device)
        said = model.outcomes(games).cpu()
        check_scores("advantage", said)
        first, second = said.view(2, -1)
        there += first.tolist()
        back += second.tolist()
        residual = max(residual, float(model.residual(games).abs().max()))
    return game_numbers(there, back, [row["outcome"] for row in rows], residual)

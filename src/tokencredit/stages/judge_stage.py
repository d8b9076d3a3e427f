"""A stage that a judge brings along: trained by settings of the judge's own, kept as all are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge
from tokencredit.models.adapters.lora import Lora, adapted
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.passes.kernels import disable_dropout
from tokencredit.models.tokens.padding import fit_embeddings
from tokencredit.stages.base_model import base_of
from tokencredit.stages.context import Context
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.stages.trainer import SupervisedRun, seed_generators
from tokencredit.streams import permutation, stream_key
from tokencredit.training_settings import Start, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = TypeVar("Kind", bound=Judge)


class JudgeStage(Stage):
    """Trains what one kind of judge reads. The judge names the class in `artifacts`, and has its
    settings as a field `training: JudgeTraining`.

    A class of its own says `name`, `version`, and `train`. It begins with the SFT model and reads
    the records of the reward split, unless it says otherwise in `parents` and `inputs`.
    """

    def __init__(self, context: Context, judge: Judge | None = None) -> None:
        """The stage of `judge`, which is the judge or the scorer of the run; without one, the
        former."""
        super().__init__(context)
        self.judge = context.config.judge if judge is None else judge
        self.seed = context.config.stage_seed

    def judge_as(self, kind: type[Kind]) -> Kind:
        """Its judge, which must be of this kind; `UserError` otherwise."""
        if not isinstance(self.judge, kind):
            raise UserError(f"judge = {type(self.judge).__name__}: must be judge={self.name}")
        return self.judge

    @property
    def training(self) -> Training:
        """The settings of its training."""
        found: object = getattr(self.judge, "training", None)
        if not isinstance(found, Training):
            raise UserError(
                f"{type(self.judge).__name__}: its stage {self.name!r} is trained by a field "
                "`training: JudgeTraining`, of tokencredit.training_settings; give it one"
            )
        return found

    def parents(self) -> Mapping[str, Stage]:
        """The SFT model."""
        return {"sft": SFTStage(self.context)}

    def inputs(self) -> Mapping[str, object]:
        """Its settings, the records to learn and to measure from, number format, and seed."""
        config, prints = self.context.config, self.context.corpus.fingerprints
        return {
            "training": self.training,
            "data": prints["reward"],
            "eval": prints["eval"],
            "format": config.dataset.format,
            "dtype": config.model.dtype,
            "stage_seed": self.seed,
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """What `train` leaves; the global generators, fresh heads among them, begin at the seed."""
        seed_generators(self.seed)
        return self.train(out)

    @abstractmethod
    def train(self, out: Path) -> Mapping[str, object]:
        """Learn, write the result into the folder `out`, return figures for the manifest."""

    def supervised(self, out: Path) -> SupervisedRun:
        """Training by `training`, with a trainer of transformers or TRL."""
        section = "scorer" if self.judge is self.context.config.scorer else "judge"
        return SupervisedRun.of(self.context.config, f"{section}.training", out, self.seed)

    def adapters(self) -> Lora | None:
        """What it puts on the SFT model; None where it adapts nothing of its own."""
        return None

    def adapted_sft(
        self, sft: Path, tokenizer: PreTrainedTokenizerBase, context: int | None = None
    ) -> PreTrainedModel:
        """The SFT model without dropout, with fresh `adapters`, under which it is still the SFT
        model."""
        adapters = self.adapters()
        assert adapters is not None, "only for a stage that has some"
        model = self.context.config.model
        quantized = model.quantized(self.context.config.hardware.device.value)
        plain = load_causal(sft, model.dtype, context, quantized)
        fit_embeddings(plain, tokenizer)
        disable_dropout(plain)
        return adapted(plain, adapters)

    def labelled(self, tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], int]]:
        """Ids and label (0 or 1) of the labelled texts to learn from, in a shuffled order.

        Texts, or prompts with their answers, are cut at `training.max_length` ids; there are as
        many as `training.max_tokens` allows.
        """
        corpus, settings = self.context.corpus, self.training
        ids = TokenIds(tokenizer, self.context.config.dataset.special_tokens)
        records, _ = ids.accepted(corpus.labelled("reward"))
        found: list[tuple[list[int], int]] = []
        left = float("inf") if settings.max_tokens is None else settings.max_tokens
        for index in permutation(stream_key(self.seed, self.name), len(records)):
            record = records[int(index)]
            prompt, answer, _ = ids.example(record)
            assert record.label is not None
            found.append(([*prompt, *answer][: settings.max_length], record.label))
            left -= len(found[-1][0])
            if left <= 0:
                break
        return found


class StartingStage(JudgeStage):
    """A judge's stage that begins as the judge's field `init: Start` says, and reads nothing of the
    data but what stages before it have made."""

    @property
    def start(self) -> Start:
        """What it starts from."""
        found: object = getattr(self.judge, "init", None)
        if not isinstance(found, Start):
            raise UserError(
                f"{type(self.judge).__name__}: its stage {self.name!r} starts from what a field "
                "`init: Start` says, of tokencredit.training_settings; give it one"
            )
        return found

    def parents(self) -> Mapping[str, Stage]:
        """The SFT model, or what makes that which it was made from."""
        if self.start is Start.sft:
            return super().parents()
        return base_of(self.context, self.context.config.model.policy).parents()

    def inputs(self) -> Mapping[str, object]:
        """Its settings, what it starts from, number format, adapters, and seed."""
        config = self.context.config
        base = base_of(self.context, config.model.policy)
        return {
            "training": self.training,
            "longest": self.longest(),
            "init": self.start,
            **({"base": base.identity()} if self.start is Start.base else {}),
            "dtype": config.model.dtype,
            "lora": config.model.lora,
            "special_tokens": config.dataset.special_tokens,
            "stage_seed": self.seed,
            **config.model.quantization_inputs(),
        }

    def longest(self) -> int:
        """The most tokens of prompt and answer."""
        return min(self.training.max_length, self.context.config.model.context)

    def place(self) -> Place:
        """Where the model lies that it starts from."""
        if self.start is Start.sft:
            return Place(self.made("sft"))
        return base_of(self.context, self.context.config.model.policy).place()

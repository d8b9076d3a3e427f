"""The reward model: from labels (label_model.py) or from pairs of answers (preference_model.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tokencredit.data.formats import Holds
from tokencredit.data.records import Record
from tokencredit.data.splits import Objective
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import require
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.trunk import check_readable
from tokencredit.models.loading.weights import load_classifier
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.tokens.padding import ensure_pad, fit_embeddings
from tokencredit.stages.base_model import base_of
from tokencredit.stages.context import Context
from tokencredit.stages.label_model import evaluate, fit_labels
from tokencredit.stages.preference_model import evaluate_pairs, fit_pairs
from tokencredit.stages.speech import departures
from tokencredit.stages.stage import Stage
from tokencredit.stages.trainer import seed_generators
from tokencredit.streams import integer, stream_key
from tokencredit.training_settings import Training


class RewardModelStage(Stage):
    """The model that scores responses, or one of several that were trained alike."""

    name: ClassVar[str] = "reward_model"
    version: ClassVar[int] = 3

    def __init__(self, context: Context, member: int = 0) -> None:
        """Member 0 is the reward model itself; the others of an ensemble differ by their seed."""
        super().__init__(context)
        self.member, self.seed = member, member_seed(context.config.stage_seed, member)

    def revision(self) -> int:
        """Since version 4, labelled answers are read behind the ids of their prompts, not joined to
        them; texts without a prompt, conversations, and pairs were read so before. Since version 5
        all of a model that was an adapter is trained, where only its head was."""
        config = self.context.config
        whole = config.reward_model.train and not config.model.lora.enabled
        if whole and base_of(self.context, config.model.reward_source()).adapter() is not None:
            return 5
        alone = config.dataset.reader().holds in {Holds.texts, Holds.conversations}
        return self.version if alone or self.from_pairs() else 4

    @property
    def training(self) -> Training | None:
        """Its section, unless a finished model is taken."""
        settings = self.context.config.reward_model
        return settings if settings.train else None

    def parents(self) -> Mapping[str, Stage]:
        """The converted or initialised base model, where one is needed."""
        return base_of(self.context, self.context.config.model.reward_source()).parents()

    def inputs(self) -> Mapping[str, object]:
        """Settings, model, labelled records or pairs, and seed."""
        config, corpus = self.context.config, self.context.corpus
        train = config.reward_model.train
        if train:
            corpus.check_answers(
                "a reward model",
                "use a finished one (reward_model.train=false, model.reward) or judge=function",
            )
        for split in ("reward", "eval") if train else ():  # said before anything is trained
            (corpus.check_pairs if self.from_pairs() else corpus.check_labelled)(split)
        require(
            config.reward_model.score_at is ScoreAt.end or not (train and self.from_pairs()),
            "reward_model.score_at",
            config.reward_model.score_at.value,
            "pairs are learnt from where answers end; use end",
        )
        prints = corpus.fingerprints
        kind = {"objective": Objective.pairs} if self.from_pairs() else {}
        return kind | {
            "reward_model": config.reward_model,
            "base": base_of(self.context, config.model.reward_source()).identity(),
            "dtype": config.model.dtype,
            "lora": config.model.lora,
            "data": prints["reward"],
            "eval": prints["eval"],
            "format": config.dataset.format,
            "stage_seed": config.stage_seed,
            **(config.model.quantization_inputs() if config.reward_model.train else {}),
            **({"member": self.member} if self.member else {}),
            **departures(self.context, config.model.reward_source()),
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """Train and write a plain Hugging Face folder with the classifier."""
        config = self.context.config
        settings = config.reward_model
        base = base_of(self.context, config.model.reward_source()).place()
        tokenizer = load_tokenizer(base.where, base.revision)
        ensure_pad(tokenizer)
        ids = TokenIds(tokenizer, config.dataset.special_tokens)
        if settings.train:
            ids.check(self.context.corpus.records())
        pairs = self.from_pairs()
        device = config.hardware.device.value
        quantized = config.model.quantized(device) if settings.train else None
        dtype, labels = config.model.dtype, self.labels()
        seed_generators(self.seed)  # the fresh head, and adapters
        model = load_classifier(base, dtype, settings.max_length, labels, quantized)
        check_readable(model)
        fit_embeddings(model, tokenizer)
        tokenizer.padding_side = "right"
        figures: dict[str, object] = {}
        if settings.train:
            fit = fit_pairs if pairs else fit_labels
            records = self._records("reward")
            model, figures = fit(config, model, ids, records, out, self.seed)
        else:
            model.to(device)
        if self.measures():
            held_out = self._records("eval")[: settings.held_out]
            if pairs:
                figures |= evaluate_pairs(model, ids, held_out, settings, out)
            else:
                figures |= evaluate(model, ids, held_out, settings)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures

    def labels(self) -> int | None:
        """The outputs that are trained; None for a finished model, which has its own."""
        if not self.context.config.reward_model.train:
            return None
        return 1 if self.from_pairs() else 2

    def measures(self) -> bool:
        """Whether held-out records say what is better; a finished model needs none to be used."""
        if self.context.config.reward_model.train or self.from_pairs():
            return True
        held_out = self.context.corpus.parts["eval"]
        return {record.label for record in held_out if record.answered} == {0, 1}

    def from_pairs(self) -> bool:
        """Whether it learns from pairs, and not from labels."""
        wanted = self.context.config.reward_model.objective
        return self.context.corpus.objective(wanted) is Objective.pairs

    def _records(self, split: str) -> tuple[Record, ...]:
        corpus = self.context.corpus
        return corpus.pairs(split) if self.from_pairs() else corpus.labelled(split)


def member_seed(stage_seed: int, member: int) -> int:
    """The seed of a member of an ensemble: its fresh head, the order and the windows of its texts.

    Member 0 has `stage_seed` itself. The others draw theirs, so that ensembles of neighbouring
    stage seeds share no member, as `stage_seed` + `member` would have it.
    """
    if member == 0:
        return stage_seed
    return integer(stream_key(stage_seed, "reward model", member), 0, 2**31)

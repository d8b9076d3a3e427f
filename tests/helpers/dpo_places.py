"""A place for the DPO stage: tiny models on disk, hand-made pairs, and a store of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from builders import tiny_causal, tiny_classifier, train_tokenizer
from tokencredit.algorithms.procedure import PreferenceOnly, Procedure
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset
from tokencredit.data.records import Dropped, Record
from tokencredit.data.splits import Corpus, fingerprint
from tokencredit.hardware import Hardware
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.loading.model import Model, ModelSource, Pretrained, PretrainedReward
from tokencredit.rewards.implicit import RTO
from tokencredit.settings import DPO, SFT, RewardModel
from tokencredit.stages.context import Context
from tokencredit.tracking.tracking import Tracking

LORA = Lora(enabled=True, r=4, alpha=8)


def pair_records(count: int, start: int = 0) -> tuple[Record, ...]:
    """Pairs whose chosen answers praise and whose rejected ones do not."""
    good, bad = ("good and wonderful", "touching"), ("bad and awful", "the plot was bad")
    return tuple(
        Record(
            row=row,
            text=f"{row}",
            prompt=f"movie {row} was",
            completion=f" {good[row % 2]}",
            rejected=f" {bad[row // 2 % 2]}",
            label=row % 2,
        )
        for row in range(start, start + count)
    )


def text_records(count: int, start: int = 0) -> tuple[Record, ...]:
    """Labelled reviews long enough to begin with."""
    return tuple(
        Record(
            row=row,
            text=f"review {row}: the movie was {('bad', 'good')[row % 2]} and the plot " * 5,
            label=row % 2,
        )
        for row in range(start, start + count)
    )


def corpus_of(**parts: tuple[Record, ...]) -> Corpus:
    """A corpus of these splits; those that are not named hold reviews."""
    names = ("sft", "reward", "rl", "oracle", "eval")
    whole = {name: parts.get(name, text_records(8)) for name in names}
    prints = {name: fingerprint(part) for name, part in whole.items()}
    return Corpus(parts=whole, fingerprints=prints, dropped=Dropped(Counter()), duplicates=0)


def saved(model: Any, folder: Path, *, chat: bool = False) -> Pretrained:
    """`model` in a folder, with the tokenizer of the tests."""
    model.save_pretrained(folder)
    train_tokenizer(chat=chat).save_pretrained(folder)
    return Pretrained(source=ModelSource.path, path=str(folder))


def place(
    folder: Path,
    settings: DPO,
    *,
    corpus: Corpus | None = None,
    lora: Lora | None = None,
    algorithm: Procedure | None = None,
    **model: Any,
) -> Context:
    """A run whose SFT model and reward model are finished ones in `folder`, and its records."""
    config = Config(
        model=Model(
            policy=saved(tiny_causal(), folder / "model"),
            reward=PretrainedReward(
                source=ModelSource.path, path=saved(tiny_classifier(), folder / "reward").path
            ),
            context=64,
            lora=lora or Lora(),
            **model,
        ),
        dataset=Dataset(),
        judge=ImplicitJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=RTO(),
        algorithm=algorithm or PreferenceOnly(),
        hardware=Hardware(),
        tracking=Tracking(),
        sft=SFT(train=False),
        reward_model=RewardModel(train=False, max_length=64, held_out=4),
        dpo=settings,
        store=str(folder / "store"),
    )
    context = Context(config)
    pairs = corpus_of(reward=pair_records(24), eval=pair_records(12, start=100))
    vars(context)["corpus"] = corpus or pairs
    return context

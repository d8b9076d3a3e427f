"""What can be seen of the settings of models of revised answers: see observers.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stage_observers import TEXTS, Trainer, adapters, asked
from tokencredit.config import Config
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.bradley_terry import BradleyTerryStage
from tokencredit.stages.discriminator import DiscriminatorStage
from tokencredit.stages.figa import FIGAStage
from tokencredit.stages.hindsight import HindsightStage
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Store


def discriminated(config: Config, place: Path) -> Any:
    """What the discriminator asks of its trainer and reports; the SFT model is another than the
    base, and a word of every answer was revised."""
    return of_revisions(config, place, DiscriminatorStage)


def preferring(config: Config, place: Path) -> Any:
    """The same of a reward model of the run's pairs, chosen or revised."""
    return of_revisions(config, place, BradleyTerryStage)


def played(config: Config, place: Path) -> Any:
    """What the advantage model asks of its trainer and reports, its adapters, head, and games."""
    sft = SimpleNamespace(path=place / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", lambda *_: sft)
        found = asked(config, place, AdvantageStage)
    (made,) = Trainer.made
    batch = made["data_collator"](made["train_dataset"][:2])
    games = {name: tensor.tolist() for name, tensor in batch.items()}
    model = made["model"]
    return [found, adapters(model.model), list(model.head.up.shape), model.centred, games]


def looking_back(config: Config, place: Path) -> Any:
    """What the hindsight model asks of its trainer and reports, and its adapters."""
    folder = place / "scored"
    folder.mkdir(exist_ok=True)
    for name in ("train", "held_out"):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
            for n in range(20):
                sides = {
                    f"{side}_{what}": value
                    for place, side in enumerate(("chosen", "rejected"))
                    for what, value in (("ids", [9 + n, 8 + place, 0]), ("score", 2.0 * n - place))
                }
                print(json.dumps({"prompt_ids": [5 + n] * (1 + n % 3), **sides}), file=lines)
    folders = {"sampled_pairs": folder, "sft": place / "model"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", lambda _, stage: SimpleNamespace(path=folders[stage.name]))
        found = asked(config, place, HindsightStage)
    (made,) = Trainer.made
    return [found, adapters(made["model"])]


def refined(config: Config, place: Path) -> Any:
    """The same of FIGA, whose SFT model is a language model."""
    return of_revisions(config, place, FIGAStage, "model")


def of_revisions(config: Config, place: Path, stage: type[Stage], sft: str = "reward") -> Any:
    """What a stage asks and reports that reads these revisions."""
    folder = place / "revised"
    folder.mkdir(exist_ok=True)
    for name, texts in (("revisions", TEXTS), ("held_out", TEXTS[:3])):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
            for n, text in enumerate(texts):
                ends = {"rejected": " It was a bad one.", "revised": " It was a good one."}
                sides = {side: end * (1 + n % 3) for side, end in ends.items()}
                print(json.dumps({"row": n, "prompt": text, "chosen": "", **sides}), file=lines)
    folders = {"revisions": folder, "sft": place / sft}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", lambda _, stage: SimpleNamespace(path=folders[stage.name]))
        return asked(config, place, stage)

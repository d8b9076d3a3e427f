"""Every stage that leaves an artifact, on data and models so small that each is built in a second."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from builders import write_reviews
from preferences import furnish_pairs, pair_config, with_model
from tokencredit.algorithms.procedure import PreferenceOnly, SupervisedOnly
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.bradley_terry import BradleyTerryJudge, Preference
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.ensemble import Ensemble
from tokencredit.judges.hindsight import HindsightJudge
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.panel import SameAsJudge
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.loading.architecture import Architecture
from tokencredit.models.loading.model import ModelSource, Pretrained
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.reviser_settings import Backend, Reviser
from tokencredit.rewards.advantage_schemes import Hindsight
from tokencredit.rewards.implicit import RTO
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.tlcr import TLCR
from tokencredit.settings import DPO, FIGA, FIGATraining, PairSource, RewardModel
from tokencredit.stages.context import Context
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Artifact
from tokencredit.training_settings import JudgeTraining, Start

LORA = Lora(enabled=True, r=4, alpha=8)
Change = Callable[[Config, Path], Config]


def furnish(folder: Path) -> Path:
    """Pairs, reviews, and a model in `folder`."""
    write_reviews(furnish_pairs(folder) / "reviews.jsonl", 120)
    return folder


def labelled(config: Config, place: Path) -> Config:
    """The run on reviews, with a reward model of labels that trains for a few steps."""
    data = Dataset(
        source=Source.path,
        path=str(place / "reviews.jsonl"),
        splits=config.dataset.splits,
        prompt=PromptSpec(min_characters=20),
    )
    reward = RewardModel(learning_rate=1e-2, batch_size=8, max_length=32, max_tokens=900)
    return replace(config, dataset=data, reward_model=reward)


def scratch(config: Config, place: Path) -> Config:
    """The policy begins as nothing."""
    sizes = Architecture(vocab_size=400, hidden_size=32, layers=2, heads=2, mlp_size=64)
    source = Pretrained(source=ModelSource.scratch, path=None, name=None)
    return with_model(labelled(config, place), policy=source, architecture=sizes)


def gguf(config: Config, place: Path) -> Config:
    """The policy is converted from a GGUF file."""
    maker = Path(__file__).parents[1] / "models" / "test_models_gguf.py"
    spec = importlib.util.spec_from_file_location("gguf_files", maker)
    assert spec is not None and spec.loader is not None
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    path, bpe = place / "tiny.gguf", files.tiny_bpe()
    if not path.exists():
        files.write_gguf(path, files.tiny_model(bpe.get_vocab_size()), bpe)
    return with_model(config, policy=Pretrained(source=ModelSource.path, path=str(path), name=None))


def lora(config: Config, place: Path) -> Config:
    """Every stage that trains trains adapters."""
    return with_model(config, lora=LORA)


def preferring(config: Config, place: Path) -> Config:
    """With a DPO model of the data's own pairs."""
    dpo = DPO(learning_rate=1e-2, batch_size=4, max_length=90)
    return replace(config, judge=ImplicitJudge(), reward_scheme=RTO(), dpo=dpo)


def sampling(config: Config, place: Path) -> Config:
    """With a DPO model of pairs that are sampled from the SFT model."""
    found = preferring(labelled(config, place), place)
    return replace(found, dpo=replace(found.dpo, pairs=PairSource.sampled, prompts=16, held_out=4))


def ensemble(config: Config, place: Path) -> Config:
    """With two reward models."""
    return replace(labelled(config, place), judge=Ensemble(members=2), scorer=Ensemble(members=2))


def discriminating(config: Config, place: Path) -> Config:
    """With a discriminator, which learns from the chosen answers as revisions."""
    training = JudgeTraining(learning_rate=1e-2, batch_size=4, max_length=90)
    judge = DiscriminatorJudge(training=training)
    reviser = Reviser(backend=Backend.chosen, held_out=4)
    return replace(config, judge=judge, scorer=SameAsJudge(), reward_scheme=TLCR(), reviser=reviser)


def from_base(config: Config, place: Path) -> Config:
    """The discriminator begins as what the SFT model was made from."""
    assert isinstance(config.judge, DiscriminatorJudge)
    return replace(config, judge=replace(config.judge, init=Start.base))


def by_pairs(config: Config, place: Path) -> Config:
    """With a reward model of the data's own pairs as the judge."""
    training = JudgeTraining(learning_rate=1e-2, batch_size=4, max_length=90)
    reviser = Reviser(backend=Backend.chosen, held_out=4)
    judge = BradleyTerryJudge(training=training)
    scheme = Sparse()
    return replace(config, judge=judge, scorer=SameAsJudge(), reward_scheme=scheme, reviser=reviser)


def by_revisions(config: Config, place: Path) -> Config:
    """With one of revised over rejected answers, where what was sampled is revised."""
    found = by_pairs(sampling(config, place), place)
    assert isinstance(found.judge, BradleyTerryJudge)
    judge = replace(found.judge, pairs=Preference.revised)
    reviser = replace(found.reviser, pairs=PairSource.sampled)
    return replace(found, judge=judge, reviser=reviser)


def playing(config: Config, place: Path) -> Config:
    """With an advantage model of the data's own pairs as the judge."""
    training = JudgeTraining(learning_rate=1e-2, batch_size=4, max_length=90)
    judge = AdvantageJudge(rank=4, lora_rank=2, lora_alpha=4, training=training)
    return replace(config, judge=judge, scorer=SameAsJudge(), reward_scheme=RTO())


def looking_back(config: Config, place: Path) -> Config:
    """With a hindsight model of responses that are sampled from the SFT model."""
    training = JudgeTraining(learning_rate=1e-2, batch_size=4, max_length=90)
    judge = HindsightJudge(outcomes=3, lora_rank=2, lora_alpha=4, training=training)
    found = replace(sampling(config, place), judge=judge, scorer=SameAsJudge())
    return replace(found, reward_scheme=Sparse(), advantage_scheme=Hindsight())


def refining(config: Config, place: Path) -> Config:
    """It ends with FIGA, which learns from the chosen answers as revisions."""
    training = FIGATraining(learning_rate=1e-2, batch_size=4, max_length=90)
    reviser = Reviser(backend=Backend.chosen, held_out=4)
    return replace(config, algorithm=FIGA(training=training), reviser=reviser)


def supervised(config: Config, place: Path) -> Config:
    """It ends with the SFT model."""
    return replace(config, algorithm=SupervisedOnly())


def preferred(config: Config, place: Path) -> Config:
    """It ends with a DPO model of the data's own pairs."""
    return replace(preferring(config, place), algorithm=PreferenceOnly())


def unchanged(config: Config, place: Path) -> Config:
    """Pairs, whole models."""
    return config


STAGES: dict[str, tuple[str, tuple[Change, ...]]] = {
    "base model from nothing": ("base_model", (scratch,)),
    "base model from GGUF": ("base_model", (gguf,)),
    "sft": ("sft", (labelled,)),
    "sft of pairs": ("sft", (unchanged,)),
    "sft with adapters": ("sft", (labelled, lora)),
    "reward model of labels": ("reward_model", (labelled,)),
    "reward model of labels with adapters": ("reward_model", (labelled, lora)),
    "reward model of pairs": ("reward_model", (unchanged,)),
    "reward model of pairs with adapters": ("reward_model", (lora,)),
    "member of an ensemble": ("reward_model", (ensemble,)),
    "oracle of labels": ("oracle", (labelled,)),
    "oracle of pairs": ("oracle", (unchanged,)),
    "sampled pairs": ("sampled_pairs", (sampling,)),
    "dpo": ("dpo", (preferring,)),
    "dpo with adapters": ("dpo", (preferring, lora)),
    "dpo of sampled pairs": ("dpo", (sampling,)),
    "discriminator": ("discriminator", (discriminating,)),
    "discriminator of the base model": ("discriminator", (discriminating, from_base)),
    "discriminator with adapters": ("discriminator", (discriminating, lora)),
    "figa": ("figa", (refining,)),
    "figa with adapters": ("figa", (refining, lora)),
    "evaluation of the SFT model": ("evaluation", (labelled, supervised)),
    "evaluation of a DPO model": ("evaluation", (preferred,)),
    "evaluation of a DPO model with adapters": ("evaluation", (preferred, lora)),
    "evaluation of FIGA with adapters": ("evaluation", (refining, lora)),
    "reward model of the run's pairs": ("bradley_terry", (by_pairs,)),
    "advantage model": ("advantage", (playing,)),
    "hindsight model": ("hindsight", (looking_back,)),
    "reward model of revisions": ("bradley_terry", (by_revisions,)),
}
"""The name of the stage, and what makes a run that has it of the run on pairs."""


def stage_of(kind: str, place: Path, store: Path) -> Stage:
    """The stage of that kind in a run whose data lie in `place`."""
    name, changes = STAGES[kind]
    config = replace(pair_config(place), store=str(store))
    for change in changes:
        config = change(config, place)
    return [stage for stage in all_stages(Context(config)) if stage.name == name][-1]


def build(stage: Stage) -> Artifact:
    """The artifact of a stage, and before it those that it is made from."""
    for parent in stage.parents().values():
        build(parent)
    return stage.context.store.build(stage)

"""Every input that a stage declares, by its name, and what changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.data.token_ids import SpecialTokens
from tokencredit.hardware import Hardware
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.bradley_terry import BradleyTerryJudge, Preference
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.architecture import Architecture
from tokencredit.models.loading.model import (
    Autocast,
    Dtype,
    Model,
    ModelSource,
    Pretrained,
    RewardReads,
)
from tokencredit.models.loading.quantization import NF4, Quantization
from tokencredit.models.value import Value, ValueKind
from tokencredit.reviser_settings import Backend, Reviser
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.tlcr import TLCR
from tokencredit.rewards.uniform import Uniform
from tokencredit.settings import DPO, FIGA, SFT, Evaluation, Oracle, PairSource, RewardModel
from tokencredit.stages.base_model import base_of
from tokencredit.stages.bradley_terry import BradleyTerryStage
from tokencredit.stages.context import Context
from tokencredit.stages.discriminator import DiscriminatorStage
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.figa import FIGAStage
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.revisions import RevisionsStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.rl import RLStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.tracking.tracking import Tracking
from tokencredit.training_settings import JudgeTraining, Start

Change = Callable[[Config], Config]


def config(place: Path) -> Config:
    """A run on `base.jsonl` and `model` in that folder."""
    policy = Pretrained(source=ModelSource.path, path=str(place / "model"), name=None)
    return Config(
        model=Model(policy=policy, context=64),
        dataset=Dataset(source=Source.path, path=str(place / "base.jsonl")),
        judge=AttentionJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Redistribute(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
    )


def at(config: Config, name: str) -> str:
    """A file or folder beside the data."""
    return str(Path(config.dataset.path or "").parent / name)


def model(**numbers: Any) -> Change:
    return lambda c: replace(c, model=replace(c.model, **numbers))


def data(**numbers: Any) -> Change:
    return lambda c: replace(c, dataset=replace(c.dataset, **numbers))


def record_of(split: str) -> Change:
    """One record of that split says something else."""
    return lambda c: replace(c, dataset=replace(c.dataset, path=at(c, f"{split}.jsonl")))


def from_path(role: str, name: str) -> Change:
    """The model of that role is another one beside the data."""

    def change(c: Config) -> Config:
        source = Pretrained(source=ModelSource.path, path=at(c, name), name=None)
        role_source: dict[str, Any] = {role: source}
        return replace(c, model=replace(c.model, **role_source))

    return change


def judged_by_function(c: Config) -> Config:
    return replace(c, scorer=FunctionJudge(function=f"{at(c, 'judge.py')}:f"))


def same(c: Config) -> Config:
    return c


PAIRS = data(format="preference")
DTYPE, LORA = model(dtype=Dtype.bfloat16), model(lora=Lora(enabled=True))
CONTEXT, FORMAT = model(context=60), data(format="prompt_completion")
NF4_ON = model(quantization=Quantization.nf4, nf4=NF4(), lora=Lora(enabled=True))
STAGE_SEED: Change = lambda c: replace(c, stage_seed=1)  # noqa: E731
ROLLOUT: Change = lambda c: replace(c, rollout=Sampling(temperature=0.7))  # noqa: E731
PROMPT = data(prompt=PromptSpec(max_tokens=7))


@dataclass(frozen=True)
class Case:
    """A stage, the configuration it starts from, and what changes each of its inputs."""

    stage: Callable[[Context], Stage]
    inputs: dict[str, list[Change]]
    given: Change = same
    elsewhere: tuple[str, ...] = ()
    """Inputs that another test changes."""


def revised(**settings: Any) -> Change:
    """Another reviser."""
    return lambda c: replace(c, reviser=Reviser(**settings))


def discriminated(**settings: Any) -> Change:
    """The run's judge is a discriminator that learns from revisions of pairs."""
    judge = DiscriminatorJudge(**settings)
    return lambda c: replace(PAIRS(c), judge=judge, reward_scheme=TLCR())


def preferring(**settings: Any) -> Change:
    """The run's judge is a reward model of its own pairs."""
    judge = BradleyTerryJudge(**settings)
    return lambda c: replace(PAIRS(c), judge=judge, reward_scheme=Sparse())


def own_words(c: Config) -> Path:
    """A short list of words beside the data."""
    path = Path(at(c, "words.tsv"))
    path.write_text("adjective\tbad\tgood\n", encoding="utf-8")
    return path


CASES = {
    "rl": Case(
        RLStage,
        {
            "algorithm": [lambda c: replace(c, algorithm=PPO(lam=0.5))],
            "reward_scheme": [lambda c: replace(c, reward_scheme=Uniform())],
            "judge": [lambda c: replace(c, judge=AttentionJudge(layer=0))],
            "scorer": [judged_by_function],
            "rollout": [ROLLOUT],
            "prompt": [PROMPT],
            "format": [FORMAT],
            "dtype": [DTYPE],
            "autocast": [model(autocast=Autocast.bfloat16)],
            "value": [model(value=Value(kind=ValueKind.separate))],
            "lora": [LORA],
            "context": [CONTEXT],
            "evaluation": [lambda c: replace(c, evaluation=Evaluation(prompts=4))],
            "data": [record_of("rl")],
            "eval": [record_of("eval")],
            "seed": [lambda c: replace(c, seed=1)],
            "reward_reads": [model(reward_reads=RewardReads.text)],
            "nf4": [NF4_ON],
        },
        elsewhere=("plugins",),  # test_a_judges_file_and_a_plugin_count_by_content
    ),
    "sft": Case(
        SFTStage,
        {
            "base": [from_path("policy", "other")],
            "dtype": [DTYPE],
            "sft": [lambda c: replace(c, sft=SFT(epochs=7.5))],
            "lora": [LORA],
            "data": [record_of("sft")],
            "format": [FORMAT],
            "stage_seed": [STAGE_SEED],
            "nf4": [NF4_ON],
        },
    ),
    "finished sft": Case(
        SFTStage,
        {
            "base": [from_path("policy", "other")],
            "dtype": [DTYPE],
            "train": [lambda c: replace(c, sft=SFT())],
        },
        given=lambda c: replace(c, sft=SFT(train=False)),
    ),
    "reward_model": Case(
        RewardModelStage,
        {
            "reward_model": [lambda c: replace(c, reward_model=RewardModel(epochs=7.5))],
            "base": [from_path("reward", "other")],
            "dtype": [DTYPE],
            "lora": [LORA],
            "data": [record_of("reward")],
            "eval": [record_of("eval")],
            "format": [FORMAT],
            "stage_seed": [STAGE_SEED],
            "objective": [PAIRS],
            "nf4": [NF4_ON],
        },
    ),
    "oracle": Case(
        OracleStage,
        {
            "oracle": [lambda c: replace(c, oracle=Oracle(epochs=11))],
            "data": [record_of("oracle")],
            "eval": [record_of("eval")],
            "stage_seed": [STAGE_SEED],
            "objective": [PAIRS],
        },
    ),
    "dpo": Case(
        DPOStage,
        {
            "dpo": [lambda c: replace(c, dpo=DPO(beta=0.3))],
            "dtype": [DTYPE],
            "lora": [LORA],
            "longest": [CONTEXT, lambda c: replace(c, dpo=DPO(max_length=40))],
            "stage_seed": [STAGE_SEED],
            "data": [record_of("reward")],
            "eval": [record_of("eval")],
            "format": [lambda c: replace(c, dpo=DPO(pairs=PairSource.sampled))],
            "nf4": [NF4_ON],
        },
        given=PAIRS,
    ),
    "finished dpo": Case(
        DPOStage,
        {
            "base": [from_path("dpo", "other")],
            "dtype": [DTYPE],
            "train": [lambda c: replace(c, dpo=DPO(pairs=PairSource.sampled))],
            "beta": [lambda c: replace(c, dpo=DPO(train=False, beta=0.3))],
        },
        given=lambda c: replace(c, dpo=DPO(train=False)),
    ),
    "sampled_pairs": Case(
        SampledPairsStage,
        {
            "counts": [
                lambda c: replace(c, dpo=DPO(prompts=9)),
                lambda c: replace(c, dpo=DPO(held_out=9)),
            ],
            "rollout": [ROLLOUT],
            "prompt": [PROMPT],
            "format": [FORMAT],
            "context": [CONTEXT],
            "dtype": [DTYPE],
            "data": [record_of("rl"), record_of("eval")],
            "stage_seed": [STAGE_SEED],
        },
    ),
    "revisions": Case(
        RevisionsStage,
        {
            "backend": [revised(backend=Backend.chosen)],
            "pairs": [revised(pairs=PairSource.sampled)],
            "limit": [revised(limit=9)],
            "held_out": [revised(held_out=9)],
            "max_edit_ratio": [revised(max_edit_ratio=0.4)],
            "words": [lambda c: revised(words=str(own_words(c)))(c)],
            "data": [record_of("reward")],
            "eval": [record_of("eval")],
            "format": [revised(pairs=PairSource.sampled)],
        },
        given=PAIRS,
    ),
    "discriminator": Case(
        DiscriminatorStage,
        {
            "training": [discriminated(training=JudgeTraining(epochs=7.5))],
            "init": [discriminated(init=Start.base)],
            "dtype": [DTYPE],
            "lora": [LORA],
            "longest": [CONTEXT, discriminated(training=JudgeTraining(max_length=40))],
            "special_tokens": [data(special_tokens=SpecialTokens.parse)],
            "stage_seed": [STAGE_SEED],
            "nf4": [NF4_ON],
        },
        given=discriminated(),
    ),
    "discriminator of the base": Case(
        DiscriminatorStage,
        {"base": [from_path("policy", "other")], "init": [discriminated()]},
        given=discriminated(init=Start.base),
        elsewhere=("training", "longest", "dtype", "lora", "special_tokens", "stage_seed"),
    ),
    "reward model of the run's pairs": Case(
        BradleyTerryStage,
        {
            "pairs": [preferring(pairs=Preference.revised)],
            "limit": [revised(limit=9)],
            "held_out": [revised(held_out=9)],
            "data": [record_of("reward")],
            "eval": [record_of("eval")],
            "format": [revised(pairs=PairSource.sampled)],
        },
        given=preferring(),
        elsewhere=("training", "init", "longest", "dtype", "lora", "special_tokens", "stage_seed"),
    ),
    "figa": Case(
        FIGAStage,
        {
            "algorithm": [lambda c: replace(c, algorithm=FIGA(gate=None))],
            "dtype": [DTYPE],
            "lora": [LORA],
            "longest": [CONTEXT],
            "special_tokens": [data(special_tokens=SpecialTokens.parse)],
            "stage_seed": [STAGE_SEED],
            "nf4": [NF4_ON],
        },
        given=lambda c: replace(PAIRS(c), algorithm=FIGA()),
    ),
    "scratch": Case(
        lambda context: base_of(context, context.config.model.policy).parents()["base"],
        {
            "architecture": [model(architecture=Architecture(vocab_size=320))],
            "context": [CONTEXT],
            "data": [record_of("sft")],
            "stage_seed": [STAGE_SEED],
        },
        given=model(policy=Pretrained(source=ModelSource.scratch, name=None)),
    ),
    "gguf": Case(
        lambda context: base_of(context, context.config.model.policy).parents()["base"],
        {"gguf_sha256": [from_path("policy", "two.gguf")], "dtype": [DTYPE]},
        given=from_path("policy", "one.gguf"),
    ),
}


def stage(case: Case, settings: Config) -> Stage:
    """The stage of a case, under these settings."""
    return case.stage(Context(settings))


def inputs(of: Stage) -> dict[str, Any]:
    """What it says that its result depends on, besides its parents."""
    found = of.identity["inputs"]
    assert isinstance(found, dict)
    return found

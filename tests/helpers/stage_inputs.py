"""Every input that a stage declares, by its name, and what changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stage_changes import (
    CONTEXT,
    DTYPE,
    FORMAT,
    LORA,
    NF4_ON,
    PAIRS,
    PROMPT,
    ROLLOUT,
    STAGE_SEED,
    Change,
    data,
    discriminated,
    from_path,
    judged_by_function,
    looking_back,
    model,
    own_words,
    played,
    preferring,
    record_of,
    revised,
    same,
)
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.procedure import SupervisedOnly
from tokencredit.config import Config
from tokencredit.data.token_ids import SpecialTokens
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.bradley_terry import Preference
from tokencredit.models.loading.architecture import Architecture
from tokencredit.models.loading.model import (
    Autocast,
    ModelSource,
    Pretrained,
    RewardReads,
)
from tokencredit.models.passes.games import PiContext, Ties
from tokencredit.models.value import Value, ValueKind
from tokencredit.reviser_settings import Backend
from tokencredit.rewards.advantage_schemes import Own
from tokencredit.rewards.uniform import Uniform
from tokencredit.settings import DPO, FIGA, SFT, Evaluation, Oracle, PairSource, RewardModel
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.base_model import base_of
from tokencredit.stages.bradley_terry import BradleyTerryStage
from tokencredit.stages.context import Context
from tokencredit.stages.discriminator import DiscriminatorStage
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.evaluation import EvaluationStage
from tokencredit.stages.figa import FIGAStage
from tokencredit.stages.hindsight import HindsightStage
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.revisions import RevisionsStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.rl import RLStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.training_settings import JudgeTraining, Start


@dataclass(frozen=True)
class Case:
    """A stage, the configuration it starts from, and what changes each of its inputs."""

    stage: Callable[[Context], Stage]
    inputs: dict[str, list[Change]]
    given: Change = same
    elsewhere: tuple[str, ...] = ()
    """Inputs that another test changes."""


CASES = {
    "rl": Case(
        RLStage,
        {
            "algorithm": [lambda c: replace(c, algorithm=PPO(lam=0.5))],
            "reward_scheme": [lambda c: replace(c, reward_scheme=Uniform())],
            "advantage_scheme": [
                lambda c: replace(
                    c, reward_scheme=Uniform(), judge=AttributionJudge(), advantage_scheme=Own()
                )
            ],
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
    "advantage": Case(
        AdvantageStage,
        {
            "training": [played(training=JudgeTraining(epochs=7.5))],
            "rank": [played(rank=3)],
            "centred": [played(centred=False)],
            "lora_rank": [played(lora_rank=3)],
            "lora_alpha": [played(lora_alpha=3)],
            "pi_context": [played(pi_context=PiContext.concat)],
            "ties": [played(ties=Ties.drop)],
            "separator": [played(separator="Again.")],
            "effects": [played(effects=3)],
            "data": [record_of("reward")],
            "eval": [record_of("eval")],
            "dtype": [DTYPE],
            "longest": [CONTEXT, played(training=JudgeTraining(max_length=40))],
            "special_tokens": [data(special_tokens=SpecialTokens.parse)],
            "stage_seed": [STAGE_SEED],
            "nf4": [NF4_ON],
        },
        given=played(),
        elsewhere=("format", "word_classes"),
    ),
    "hindsight": Case(
        HindsightStage,
        {
            "training": [looking_back(training=JudgeTraining(epochs=7.5))],
            "outcomes": [looking_back(outcomes=3)],
            "phrase": [looking_back(phrase="Grade")],
            "lora_rank": [looking_back(lora_rank=3)],
            "lora_alpha": [looking_back(lora_alpha=3)],
            "dtype": [DTYPE],
            "stage_seed": [STAGE_SEED],
            "nf4": [NF4_ON],
        },
        given=looking_back(),
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
    "evaluation": Case(
        EvaluationStage,
        {
            "rollout": [ROLLOUT],
            "prompt": [PROMPT],
            "format": [data(format="text")],
            "special_tokens": [data(special_tokens=SpecialTokens.parse)],
            "dtype": [DTYPE],
            "autocast": [model(autocast=Autocast.bfloat16)],
            "context": [CONTEXT],
            "evaluation": [
                lambda c: replace(c, evaluation=Evaluation(prompts=4)),
                lambda c: replace(c, evaluation=Evaluation(stream=1)),
                lambda c: replace(c, evaluation=Evaluation(perplexity=True)),
            ],
            "eval": [record_of("eval")],
            "nf4": [NF4_ON],
        },
        given=lambda c: replace(PAIRS(c), algorithm=SupervisedOnly()),
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

"""The stages that others name, and what a judge is given of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokencredit.config import Config
from tokencredit.errors import UserError, require
from tokencredit.judges.given import Given
from tokencredit.judges.judge import Judge
from tokencredit.models.value import ValueInit, ValueKind
from tokencredit.rl.load import given_from
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.bradley_terry import BradleyTerryStage
from tokencredit.stages.context import Context
from tokencredit.stages.discriminator import DiscriminatorStage
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.figa import FIGAStage
from tokencredit.stages.judge_stage import JudgeStage
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.revisions import RevisionsStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage

STAGES: Final[Mapping[str, type[Stage]]] = {
    kind.name: kind
    for kind in (
        SFTStage,
        RewardModelStage,
        DPOStage,
        SampledPairsStage,
        RevisionsStage,
        DiscriminatorStage,
        BradleyTerryStage,
        AdvantageStage,
        FIGAStage,
        OracleStage,
    )
}


def stage_named(name: str, context: Context) -> Stage:
    """The stage of that name; `reward_model_2` is the third member of an ensemble.

    Raises `UserError` for a name that no stage has.
    """
    if name in STAGES:
        return STAGES[name](context)
    base, _, member = name.rpartition("_")
    if base == RewardModelStage.name and member.isdecimal():
        return RewardModelStage(context, int(member))
    raise UserError(f"no stage is called {name!r}; there are {', '.join(STAGES)}")


def stages_of(judge: Judge, context: Context) -> dict[str, Stage]:
    """The stages whose artifacts a judge has asked for, by role."""
    judge.check_reward_models(trained=context.config.reward_model.train)
    return {role: made_by(maker, context, judge) for role, maker in judge.artifacts().items()}


def made_by(maker: str | type, context: Context, judge: Judge) -> Stage:
    """The stage that makes an artifact of `judge`: one of that name, or of that class."""
    kind = STAGES.get(maker) if isinstance(maker, str) else maker
    if kind is None:
        return stage_named(str(maker), context)
    if not issubclass(kind, Stage):
        raise UserError(
            f"{kind.__name__}: is no stage; name the class of one, of tokencredit.stages.stage"
        )
    return kind(context, judge) if issubclass(kind, JudgeStage) else kind(context)


def own_stage(context: Context) -> Stage:
    """The stage that the judge of a run brings along.

    Raises `UserError` for a judge that brings none.
    """
    judge = context.config.judge
    own = [each for each in stages_of(judge, context).values() if isinstance(each, JudgeStage)]
    if not own:
        raise UserError(
            f"judge = {type(judge).__name__}: brings no stage of its own for algorithm=judge to "
            "end with; use judge=advantage, bradley_terry, or discriminator"
        )
    return own[0]


def panel_stages(context: Context) -> dict[str, Stage]:
    """The stages whose artifacts judge and scorer of a run have asked for, by role.

    Raises `UserError` where the two would train a stage of one role by different settings.
    """
    found = stages_of(context.config.judge, context)
    for role, stage in stages_of(context.config.scorer, context).items():
        other = found.setdefault(role, stage)
        if isinstance(stage, JudgeStage) and stage.key != other.key:
            raise UserError(
                f"scorer: its stage {stage.name!r} differs from the judge's, and both have the "
                f"role {role!r}; give both the same settings, or set scorer=judge"
            )
    return found


def critic_role(config: Config) -> str | None:
    """The role of the model whose weights are the value function's at first; None: the SFT model's,
    or the value function has none of its own.

    Raises `UserError` where it is to be the judge's, and the judge has none.
    """
    value, own = config.model.value, config.judge.critic_from()
    if not config.uses_values or value.kind is not ValueKind.separate:
        return None
    require(
        value.init is not ValueInit.judge or own is not None,
        "model.value.init",
        value.init.value,
        f"{type(config.judge).__name__} trains no model of its own; use judge=discriminator or "
        "bradley_terry, or model.value.init=sft",
    )
    return {ValueInit.reward_model: RewardModelStage.name, ValueInit.judge: own}.get(value.init)


def given_of(context: Context) -> Given:
    """What judge and scorer of a run may read."""
    config = context.config
    return given_from(
        config,
        lambda role: context.store.get(panel_stages(context)[role]).path,
        config.dataset.column_names,
        context.columns,
    )

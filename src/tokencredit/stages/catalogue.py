"""The stages that others name, and what a judge is given of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokencredit.errors import UserError
from tokencredit.judges.given import Given
from tokencredit.judges.judge import Judge
from tokencredit.rl.load import given_from
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage

STAGES: Final[Mapping[str, type[Stage]]] = {
    kind.name: kind
    for kind in (SFTStage, RewardModelStage, DPOStage, SampledPairsStage, OracleStage)
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
    return {role: _made_by(made_by, context) for role, made_by in judge.artifacts().items()}


def _made_by(maker: str | type, context: Context) -> Stage:
    if isinstance(maker, str):
        return stage_named(maker, context)
    if not issubclass(maker, Stage):
        raise UserError(
            f"{maker.__name__}: is no stage; name the class of one, of tokencredit.stages.stage"
        )
    return maker(context)


def given_of(context: Context) -> Given:
    """What judge and scorer of a run may read."""
    config = context.config
    stages = stages_of(config.judge, context) | stages_of(config.scorer, context)
    return given_from(
        config,
        lambda role: context.store.get(stages[role]).path,
        config.dataset.column_names,
        context.columns,
    )

"""What can be seen to be wrong with a run's models, from configuration and headers.

Models that come from the hub and are not in its cache, or that a stage has yet to make, are judged
when they are read. What is made already is not looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokencredit.models.adapters.lora import check_adapters
from tokencredit.models.advantage import check_rank
from tokencredit.models.critic import check_same_ids
from tokencredit.models.loading.trunk import check_causal, check_readable
from tokencredit.models.loading.weights import check_complete, check_context
from tokencredit.models.log_ratio import check_same_kind, check_same_vocabulary
from tokencredit.models.tokens.padding import fit_embeddings
from tokencredit.models.tokens.retokenise import check_ids, retokeniser_between
from tokencredit.models.value import ValueInit
from tokencredit.preflight.sight import Sight, Sights
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.catalogue import critic_role
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.judge_stage import JudgeStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.rl import RLStage, is_run
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage


def check_models(context: Context, stages: Sequence[Stage]) -> None:
    """Every model that is still to be read is whole, can be used, and fits the others."""
    sights, run = Sights(context), open_run(stages)
    pending = {type(stage) for stage in stages if not stage.is_there()}
    if SFTStage in pending:
        _check_policy(context, stages, sights.policy)
    if RewardModelStage in pending:
        _check_reward(context, sights.reward)
    if DPOStage in pending and not context.config.dpo.train:
        _check_finished_dpo(context, sights)
    if run is not None:
        _check_run(context, sights)
    _check_adapted(context, [each for each in stages if type(each) in pending], sights.policy)
    _check_reading(context, sights, run, samples=SampledPairsStage in pending)
    for sight in (sights.policy, sights.reward, sights.dpo):  # last: what is refused is not fetched
        if type(sight.stage) in pending:
            _check_whole(sight)


def _check_whole(sight: Sight) -> None:
    if sight.files is not None:
        check_complete(sight.files)
    elif sight.header is not None:
        sight.header.check_whole()


def open_run(stages: Sequence[Stage]) -> RLStage | None:
    """The run at the end of `stages`, unless there is none or it is complete."""
    last = stages[-1]
    return last if is_run(last) and not last.is_done() else None


def _check_policy(context: Context, stages: Sequence[Stage], policy: Sight) -> None:
    config, names = context.config, {stage.name for stage in stages}
    if policy.config is not None:
        if config.sft.train:
            check_context(policy.config, config.sft.max_length, "sft.max_length")
        if names & {"rl", "sampled_pairs", "evaluation"} or not config.sft.train:
            check_context(policy.config, config.model.context)
        if "dpo" in names and config.dpo.train:
            longest = min(config.dpo.max_length, config.model.context)
            check_context(policy.config, longest, "dpo.max_length")
    if policy.model is not None:
        check_causal(policy.model)
    if policy.speaks:
        policy.tokenizer  # noqa: B018 - it must have an end token


def _check_reward(context: Context, reward: Sight) -> None:
    if reward.config is not None:
        check_context(
            reward.config, context.config.reward_model.max_length, "reward_model.max_length"
        )
    if reward.model is not None:
        check_readable(reward.model)
    if reward.speaks:
        reward.tokenizer  # noqa: B018 - it must have an end token


def _check_finished_dpo(context: Context, sights: Sights) -> None:
    dpo, policy = sights.dpo, sights.policy
    if dpo.config is not None:
        check_context(dpo.config, context.config.model.context, of="DPO model")
    if dpo.model is None or policy.model is None or dpo.source is policy.source:
        return
    check_causal(dpo.model)
    if not dpo.speaks or not policy.speaks:  # made from nothing, tokenizers too
        return
    check_same_vocabulary(dpo.tokenizer, policy.tokenizer)
    for each in (dpo, policy):
        assert each.model is not None
        fit_embeddings(each.model, each.tokenizer)
    check_same_kind(dpo.model, policy.model)


def _check_run(context: Context, sights: Sights) -> None:
    config, policy, reward = context.config, sights.policy, sights.reward
    for judge in (config.judge, config.scorer):
        judge.check_models({"policy": lambda: policy.model, "reward_model": lambda: reward.model})


def _check_adapted(context: Context, pending: Sequence[Stage], policy: Sight) -> None:
    """Adapters, and the head of an advantage model, can be put on the policy."""
    common = context.config.model.lora
    adapters = [common] if common.enabled and pending else []
    own = [stage.adapters() for stage in pending if isinstance(stage, JudgeStage)]
    adapters += [each for each in own if each is not None]
    if not adapters or policy.model is None:
        return
    for stage in pending:
        if isinstance(stage, AdvantageStage):
            check_rank(stage.settings.rank, policy.model)
    for each in adapters:
        check_adapters(policy.model, each)


def _check_reading(context: Context, sights: Sights, run: RLStage | None, *, samples: bool) -> None:
    """The reward model, if one is read, reads what the policy writes: in the run or, if it
    `samples`, in pairs."""
    parents = [] if run is None else run.parents().values()
    if not samples and not any(isinstance(stage, RewardModelStage) for stage in parents):
        return
    config, policy, reward = context.config, sights.policy, sights.reward
    retokeniser = None
    if policy.speaks and reward.speaks and policy.source is not reward.source:
        retokeniser = retokeniser_between(
            policy.tokenizer, reward.tokenizer, config.model.reward_reads, reward.model
        )
    if samples:
        check_ids(retokeniser)
    if retokeniser is not None and run is not None and critic_role(config) == RewardModelStage.name:
        check_same_ids(policy.tokenizer, reward.tokenizer, ValueInit.reward_model)
    if retokeniser is None and reward.config is not None:
        check_context(reward.config, config.model.context, of="reward model")

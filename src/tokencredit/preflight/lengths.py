"""What of the data is too long for a run, told from the first records of each split.

Where those show too much of it, all are asked, so that `plan` says what a stage would say. Models
whose tokenizer is still to be made are asked when it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokencredit.console import say
from tokencredit.data.formats import Holds
from tokencredit.data.pairs import read_pairs
from tokencredit.data.prompts import TOO_LONG
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.models.loading.model import Pretrained, load_tokenizer
from tokencredit.models.tokens.padding import ensure_pad
from tokencredit.settings import PairSource
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.base_model import base_of
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.evaluation import is_evaluation
from tokencredit.stages.preference_model import fitting
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sft import SFTStage, answered_once, say_cut
from tokencredit.stages.stage import Stage

FIRST: Final = 100
"""Records of a split that are read before all of them are."""


def check_lengths(context: Context, stages: Sequence[Stage]) -> None:
    """Prompts leave room for responses, and demonstrations and pairs fit the lengths of stages."""
    if context.config.dataset.reader().holds is Holds.texts:
        return  # texts are cut wherever they are used
    for stage in stages:
        if stage.is_there():
            continue
        if prompts_of(stage):
            _check_prompts(context, prompts_of(stage))
        elif isinstance(stage, SFTStage):
            _check_demonstrations(context)
        elif isinstance(stage, RewardModelStage):
            _check_reward_pairs(stage)
        elif isinstance(stage, DPOStage):
            _check_dpo_pairs(stage)
        elif isinstance(stage, AdvantageStage):
            _check_games(stage)


def prompts_of(stage: Stage) -> tuple[str, ...]:
    """The splits whose prompts a stage at the end of a run answers."""
    if stage.is_run:
        return ("rl", "eval")
    return ("eval",) if is_evaluation(stage) else ()


def _check_prompts(context: Context, splits: Sequence[str]) -> None:
    ids = _reader(context, context.config.model.policy)
    if ids is None:
        return
    for split in splits:
        some: Sequence[Record] = context.corpus.parts[split][:FIRST]
        try:
            found = context.prompts(some, ids)
        except UserError:
            some = context.corpus.parts[split]
            found = context.prompts(some, ids)
        if found.dropped[TOO_LONG]:
            say(
                f"dataset: {found.dropped[TOO_LONG]} of {_these(some)} prompts of the {split} "
                "split leave no room for a response and are left out"
            )


def _check_demonstrations(context: Context) -> None:
    sft, ids = context.config.sft, _reader(context, context.config.model.policy)
    if not sft.train or ids is None:
        return
    records = answered_once(context.corpus.parts["sft"])
    accepted, _ = ids.accepted(records[:FIRST])
    try:
        say_cut([ids.example(record)[:2] for record in accepted], sft, "the first ")
    except UserError:
        accepted, _ = ids.accepted(records)
        say_cut([ids.example(record)[:2] for record in accepted], sft)


def _check_reward_pairs(stage: RewardModelStage) -> None:
    context = stage.context
    settings = context.config.reward_model
    ids = _reader(context, context.config.model.reward_source())
    if ids is None or not stage.from_pairs() or stage.member:
        return
    for split in ("reward", "eval") if settings.train else ("eval",):
        records = context.corpus.pairs(split)
        key = f"reward_model.max_length ({split} split)"
        if not _fit(records, ids, settings.max_length, key):
            fitting(records, ids, settings)


def _check_dpo_pairs(stage: DPOStage) -> None:
    settings, context = stage.context.config.dpo, stage.context
    ids = _reader(context, context.config.model.policy)
    if ids is None or not settings.train or settings.pairs is PairSource.sampled:
        return
    if not _fit(context.corpus.pairs("reward"), ids, stage.longest(), "dpo.max_length"):
        stage.pairs(ids.tokenizer)


def _check_games(stage: AdvantageStage) -> None:
    ids = _reader(stage.context, stage.context.config.model.policy)
    if ids is None or stage.of_sampled():
        return
    separator = stage.separator(ids)
    some = read_pairs(stage.records("train")[:FIRST], ids, stage.longest())
    if not stage.rows(*some, separator)[0]:
        stage.to_learn(ids, separator)


def _fit(records: Sequence[Record], ids: TokenIds, limit: int, key: str) -> bool:
    """Whether any of the first pairs is short enough; says how many are not."""
    kept, noted = read_pairs(records[:FIRST], ids, limit)
    if kept and noted["too long"]:
        say(
            f"{key} = {limit}: {noted['too long']} of {_these(records[:FIRST])} pairs have more "
            "tokens and are left out"
        )
    return bool(kept)


def _these(records: Sequence[Record]) -> str:
    return f"the first {FIRST}" if len(records) == FIRST else str(len(records))


def _reader(context: Context, source: Pretrained) -> TokenIds | None:
    """What makes ids as the stages of this model do; None where its tokenizer is not there yet."""
    base = base_of(context, source)
    if base.parents():
        return None
    place = base.place()
    tokenizer = load_tokenizer(place.where, place.revision)
    ensure_pad(tokenizer)
    return TokenIds(tokenizer, context.config.dataset.special_tokens)

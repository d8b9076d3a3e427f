"""A judge that reads another vocabulary than the policy writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tokencredit.judges.judge import OpenJudge
from tokencredit.rollout import Judgement, Notes, Rollout

if TYPE_CHECKING:
    from tokencredit.context import Context
    from tokencredit.models.retokenise import Retokeniser
    from tokencredit.models.scorer import Scorer
    from tokencredit.stages.actors import Actors


def reading(judging: Callable[[Scorer], OpenJudge], context: Context, actors: Actors) -> OpenJudge:
    """The judge of the run's reward model, whatever vocabulary that has (`model.reward_reads`)."""
    from tokencredit.models.scorer import open_reader

    model = open_reader(context, actors.tokenizer)
    return retokenised(judging(model), model.retokeniser)


def retokenised(judge: OpenJudge, retokeniser: Retokeniser | None) -> OpenJudge:
    """`judge` on the text of responses; evidence of its tokens comes back as evidence of theirs.

    Without a retokeniser (one vocabulary) it is the judge itself, which reads the policy's ids.
    """
    if retokeniser is None:
        return judge

    def judge_text(rollout: Rollout) -> Judgement:
        there = retokeniser(rollout)
        verdict = judge(there.rollout)
        known = {} if verdict.notes is None else verdict.notes.columns
        notes = Notes({**known, **there.notes().columns})
        return replace(verdict, evidence=there.back(verdict.evidence), notes=notes)

    return judge_text

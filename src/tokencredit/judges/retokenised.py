"""A judge that reads another vocabulary than the policy writes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tokencredit.judges.judge import OpenJudge
from tokencredit.rollout import Judgement, Notes, Rollout

if TYPE_CHECKING:
    from tokencredit.models.retokenise import Retokeniser


def retokenised(judge: OpenJudge, retokeniser: Retokeniser | None) -> OpenJudge:
    """`judge` on the text of responses; evidence of its tokens comes back as evidence of theirs.

    Without a retokeniser (one vocabulary) it is the judge itself, which reads the policy's ids.
    """
    if retokeniser is None:
        return judge

    def reading(rollout: Rollout) -> Judgement:
        there = retokeniser(rollout)
        verdict = judge(there.rollout)
        known = {} if verdict.notes is None else verdict.notes.columns
        notes = Notes({**known, **there.notes().columns})
        return replace(verdict, evidence=there.back(verdict.evidence), notes=notes)

    return reading

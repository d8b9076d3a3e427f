"""A judge that reads another vocabulary than the policy writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import OpenJudge
from tokencredit.models.scorer import Scorer, open_reader
from tokencredit.models.tokens.retokenise import Retokeniser
from tokencredit.rollout import Judgement, Notes, Rollout


def reading(judging: Callable[[Scorer], OpenJudge], given: Given, actors: Live) -> OpenJudge:
    """The judge of the run's reward model, whatever vocabulary that has (`model.reward_reads`)."""
    model = reward_model(given, actors)
    return retokenised(judging(model), model.retokeniser)


def reward_model(given: Given, actors: Live, role: str = "reward_model") -> Scorer:
    """The reward model of that role, which reads what the policy writes."""
    folder = given.folder(role)
    return open_reader(folder, actors.tokenizer, given.model, given.score_at, given.device)


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

"""The panel of a judge, whose evidence counts, and a scorer, whose scores do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokencredit.errors import UserError
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.own import open_judge
from tokencredit.rollout import Judgement, Notes, Rollout


@dataclass(slots=True, kw_only=True)
class SameAsJudge(Judge):
    """`scorer=judge`: the scores come from the judge itself."""

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """Never called: the panel opens the judge once."""
        raise UserError("judge = judge: only a scorer can be the judge; name a judge of its own")


def open_panel(judge: Judge, scorer: Judge, given: Given, actors: Live) -> OpenJudge:
    """One callable for judge and scorer; one pass serves both where they read the same model."""
    shared = shares_pass(judge, scorer)
    opened = open_judge(judge, given, actors, scores=shared)
    if shared:
        return opened
    score = open_judge(scorer, replace(given, scheme=None), actors, evidence=False)
    return Panel(opened, score)


@dataclass(frozen=True, slots=True)
class Panel:
    """A judge whose evidence counts, and a scorer whose scores do."""

    judge: OpenJudge
    scorer: OpenJudge

    def __call__(self, rollout: Rollout) -> Judgement:
        """What both say of each response."""
        verdict, scored = self.judge(rollout), self.scorer(rollout)
        return replace(verdict, scores=scored.scores, notes=_both(scored.notes, verdict.notes))


def _both(first: Notes | None, second: Notes | None) -> Notes | None:
    """The notes of both; the second's where a name is taken."""
    known = [notes.columns for notes in (first, second) if notes is not None]
    return Notes({k: v for columns in known for k, v in columns.items()}) if known else None


def shares_pass(judge: Judge, scorer: Judge) -> bool:
    """Whether the judge's own scores are the scorer's."""
    if isinstance(scorer, SameAsJudge):
        return True
    shared = judge.scoring()
    return judge.gives_scores and shared is not None and shared == scorer.scoring()

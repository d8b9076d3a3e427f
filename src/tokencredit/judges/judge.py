"""The base of all judges, and the panel of a judge and a scorer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tokencredit.fields import Settings
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tokencredit.context import Context
    from tokencredit.stages.actors import Actors
    from tokencredit.stages.stage import Stage

OpenJudge = Callable[[Rollout], Judgement]
Seen = Mapping[str, Callable[[], "PreTrainedModel | None"]]
"""Models of a run before any work, without their weights; None for one that is not to be seen."""


@dataclass(slots=True, kw_only=True)
class Judge(Settings, ABC):
    """Says something about the tokens of a response, or only about the whole of it."""

    section: ClassVar[str] = "judge"
    evidence: ClassVar[Evidence] = Evidence.none
    """What the numbers of its class mean, unless `gives` says otherwise."""
    gives_scores: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of models that it reads; two judges that need the reward model alone share a pass."""

    def gives(self) -> Evidence:
        """What the numbers of this judge mean; schemes that need another kind are refused."""
        return self.evidence

    def gives_ends(self) -> bool:
        """Whether its judgements say where sentences end."""
        return False

    def reads_reference(self) -> bool:
        """Whether it reads `Rollout.ref_logp`, which responses of other models than the policy lack
        unless they are scored."""
        return False

    def columns(self, context: Context) -> tuple[str, ...]:
        """The columns of the data that it reads besides prompt and response."""
        del context
        return ()

    def check(self) -> None:
        """Raise for what can be known to be wrong before any work is done."""
        return

    def check_models(self, models: Seen) -> None:
        """Raise for a model that it cannot read; `models` by role (policy, reward_model)."""
        return

    def identity(self) -> object:
        """What of the judge can change its verdict; itself, unless it names files."""
        return self

    def parents(self, context: Context) -> Mapping[str, Stage]:
        """The stages whose artifacts it reads, by role."""
        from tokencredit.stages.reward_model import RewardModelStage

        return {"reward_model": RewardModelStage(context)} if "reward_model" in self.needs else {}

    def scoring(self) -> object:
        """What decides its scores: judges of one answer share a pass. None: that is its own."""
        return self.needs if self.needs == ("reward_model",) else None

    def passes(self) -> Mapping[str, float]:
        """How often a judgement reads prompt and response, by role of the model that reads them.

        The roles are those of `parents`, and "policy". A backward pass counts as two. Only for
        `compute/flops`: what is not declared counts nothing.
        """
        return dict.fromkeys(self.needs, 1.0)

    @abstractmethod
    def open(self, context: Context, actors: Actors) -> OpenJudge:
        """The live judge.

        `actors` holds the tokenizer that responses are written in, and the live policy, which a
        judge may read without gradient at the time it is called.
        """


def open_panel(judge: Judge, scorer: Judge, context: Context, actors: Actors) -> OpenJudge:
    """One callable for judge and scorer; one pass serves both where they read the same model."""
    from tokencredit.judges.own import open_judge

    shared = shares_pass(judge, scorer)
    opened = open_judge(judge, context, actors, scores=shared)
    if shared:
        return opened
    score = open_judge(scorer, context, actors, evidence=False)

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
    from tokencredit.judges.same import SameAsJudge

    if isinstance(scorer, SameAsJudge):
        return True
    shared = judge.scoring()
    return judge.gives_scores and shared is not None and shared == scorer.scoring()

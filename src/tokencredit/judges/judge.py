"""The base of all judges, and the panel of a judge and a scorer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.context import Context

OpenJudge = Callable[[Rollout], Judgement]


@dataclass(slots=True, kw_only=True)
class Judge(ABC):
    """Says something about the tokens of a response, or only about the whole of it."""

    evidence: ClassVar[Evidence] = Evidence.none
    """What the numbers of its class mean, unless `gives` says otherwise."""
    gives_scores: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    """Stages whose artifacts it reads."""

    def gives(self) -> Evidence:
        """What the numbers of this judge mean; schemes that need another kind are refused."""
        return self.evidence

    def check(self) -> None:
        """Raise for what can be known to be wrong before any work is done."""
        return

    def identity(self) -> object:
        """What of the judge can change its verdict; itself, unless it names files."""
        return self

    @abstractmethod
    def open(self, context: Context, tokenizer: PreTrainedTokenizerBase) -> OpenJudge:
        """The live judge, for the policy's tokenizer."""


def open_panel(
    judge: Judge, scorer: Judge, context: Context, tokenizer: PreTrainedTokenizerBase
) -> OpenJudge:
    """One callable for judge and scorer; one pass serves both where they read the same model."""
    opened = judge.open(context, tokenizer)
    if shares_pass(judge, scorer):
        return opened
    score = scorer.open(context, tokenizer)

    def both(rollout: Rollout) -> Judgement:
        return Judgement(scores=score(rollout).scores, evidence=opened(rollout).evidence)

    return both


def shares_pass(judge: Judge, scorer: Judge) -> bool:
    """Whether the judge's own scores are the scorer's."""
    from tokencredit.judges.same import SameAsJudge

    if isinstance(scorer, SameAsJudge):
        return True
    return judge.gives_scores and judge.needs == scorer.needs == ("reward_model",)

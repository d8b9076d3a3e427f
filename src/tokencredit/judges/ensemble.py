"""Several reward models that differ by their seed alone, and what they agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge, Seen
from tokencredit.judges.retokenised import retokenised, reward_model
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout


class Combine(str, Enum):
    """How the scores of the members become one."""

    mean = "mean"
    """Their mean."""
    minimum = "minimum"
    """The score of the member that likes the response least."""
    mean_minus_sd = "mean_minus_sd"
    """Their mean less `c` of their standard deviations."""


@dataclass(slots=True, kw_only=True)
class Ensemble(Judge):
    """One score of several reward models (Coste et al. 2023); nothing about single tokens.

    The first member is the reward model of every other run and is shared with them. Their
    disagreement, the standard deviation of their scores, is logged as `judge/score_sd`.
    """

    section: ClassVar[str] = "judge.{0} (or scorer.{0})"

    members: int = number(3, at_least=1)
    """Reward models. All but the first are trained for the ensemble, on the same data in another
    order and in other windows, each with a fresh head of its own."""
    combine: Combine = Combine.mean
    """mean; minimum; or mean_minus_sd: mean − c · sd."""
    c: float = number(1.0, at_least=0, note=": disagreement is no merit")
    """Weight of the disagreement (combine=mean_minus_sd)."""

    def scoring(self) -> object:
        """Ensembles that combine alike have the same scores."""
        return ("ensemble", self.members, self.combine, self.c)

    def artifacts(self) -> Mapping[str, str | type]:
        """A reward model for each member."""
        roles = (member_name(member) for member in range(self.members))
        return {role: role for role in roles}

    def check_reward_models(self, *, trained: bool) -> None:
        """A finished reward model has no others like it."""
        require(
            trained or self.members == 1,
            "judge.members (or scorer.members)",
            self.members,
            "all members would be the same model, since reward_model.train is false; use "
            "judge=reward_model, or train the members",
        )

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The members behind one callable."""
        models = [reward_model(given, actors, role) for role in self.artifacts()]
        return retokenised(self.judging(models), models[0].retokeniser)

    def judging(self, models: Sequence[Scorer]) -> OpenJudge:
        """The judge that reads these reward models, one after the other."""
        opened = [self.member(model) for model in models]

        def judge(rollout: Rollout) -> Judgement:
            said = [each(rollout) for each in opened]
            scores = torch.stack([one.scores for one in said])
            return Judgement(
                scores=combined(scores, self.combine, self.c),
                evidence=torch.stack([one.evidence for one in said]).mean(dim=0),
                notes=Notes({"score_sd": disagreement(scores)}),
            )

        return judge

    def member(self, model: Scorer) -> OpenJudge:
        """What is asked of one member."""
        return RewardModelJudge().judging(model)


@dataclass(slots=True, kw_only=True)
class EnsembleJudge(Ensemble):
    """One score of several reward models, and the mean of their attention to each token.

    Each member's weights over prompt and response sum to 1, and so do their means. They are not
    normalised over the response before: a member that hardly looks at it has as little to say.
    """

    evidence: ClassVar[Evidence] = Evidence.nonnegative

    attention: AttentionJudge = field(default_factory=AttentionJudge)
    """What is read of each member's attention."""

    def check_models(self, models: Seen) -> None:
        """Raise for a reward model whose attention cannot be read as `attention` says."""
        self.attention.check_models(models)

    def member(self, model: Scorer) -> OpenJudge:
        """Score and attention of one member."""
        return self.attention.judging(model)


def member_name(member: int) -> str:
    """The artifact of a member; the first is the reward model of every other run."""
    return f"reward_model_{member}" if member else "reward_model"


def combined(
    scores: Float[torch.Tensor, "k B"], combine: Combine, c: float = 0.0
) -> Float[torch.Tensor, "B"]:
    """One score a response from k."""
    if combine is Combine.minimum:
        return scores.amin(dim=0)
    if combine is Combine.mean_minus_sd:
        return scores.mean(dim=0) - c * disagreement(scores)
    return scores.mean(dim=0)


def disagreement(scores: Float[torch.Tensor, "k B"]) -> Float[torch.Tensor, "B"]:
    """√(Σ_i (s_i − mean)² / k) of each response: 0 for a single member."""
    return scores.std(dim=0, correction=0)

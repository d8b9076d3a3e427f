"""One score for the whole response, from the trained reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.retokenised import reading
from tokencredit.rollout import Judgement, Rollout

if TYPE_CHECKING:
    from tokencredit.context import Context
    from tokencredit.models.scorer import Scorer
    from tokencredit.stages.actors import Actors


@dataclass(slots=True, kw_only=True)
class RewardModelJudge(Judge):
    """Scores a response; says the same of every token of it."""

    needs: ClassVar[tuple[str, ...]] = ("reward_model",)

    def open(self, context: Context, actors: Actors) -> OpenJudge:
        """The reward model behind a callable."""
        return reading(self.judging, context, actors)

    def judging(self, model: Scorer) -> OpenJudge:
        """The judge that reads this reward model."""

        def judge(rollout: Rollout) -> Judgement:
            scores = model.score(rollout)
            evidence = torch.zeros(rollout.response_mask.shape, device=scores.device)
            return Judgement(scores=scores, evidence=evidence)

        return judge

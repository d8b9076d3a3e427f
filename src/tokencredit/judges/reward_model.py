"""One score for the whole response, from the trained reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.retokenised import reading
from tokencredit.models.scorer import Scorer
from tokencredit.rollout import Judgement, Rollout


@dataclass(slots=True, kw_only=True)
class RewardModelJudge(Judge):
    """Scores a response; says the same of every token of it."""

    needs: ClassVar[tuple[str, ...]] = ("reward_model",)

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The reward model behind a callable."""
        return reading(self.judging, given, actors)

    def judging(self, model: Scorer) -> OpenJudge:
        """The judge that reads this reward model."""

        def judge(rollout: Rollout) -> Judgement:
            scores = model.score(rollout)
            evidence = torch.zeros(rollout.response_mask.shape, device=scores.device)
            return Judgement(scores=scores, evidence=evidence)

        return judge

"""The reward model's score, attributed to response tokens: evidence with a sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tokencredit.fields import number
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.retokenised import reading
from tokencredit.models.attribution import Attributor, Baseline, Method
from tokencredit.models.passes.sequences import PART_TOKENS
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout


@dataclass(slots=True, kw_only=True)
class AttributionJudge(Judge):
    """What each response token added to the reward model's score (Chan et al. 2024, §6).

    The response is compared with the same prompt followed by as many fillers. The attributions of
    its tokens sum to the difference of the two scores, up to the gap that is logged as
    `judge/completeness_gap`.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    needs: ClassVar[tuple[str, ...]] = ("reward_model",)

    method: Method = Method.integrated_gradients
    """integrated_gradients; or gradient_x_input, which is cheap and has a large gap."""
    baseline: Baseline = Baseline.mean
    """What stands in place of each response token in the text that the response is compared with:
    the mean embedding of the vocabulary, that of the pad id, or zeros."""
    steps: int = number(32, at_least=1)
    """Points of integrated gradients; each costs a forward and a backward pass. The gap tells
    whether they are enough."""
    pass_tokens: int = number(PART_TOKENS, at_least=1)
    """Tokens of one pass, padding included (one response at least): what bounds the memory."""

    def passes(self) -> Mapping[str, float]:
        """The score, that of the baseline, and a forward and a backward pass at every point."""
        points = self.steps if self.method is Method.integrated_gradients else 1
        return {"reward_model": 2.0 + 3.0 * points}

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The reward model behind a callable that gives its scores and their attributions."""
        return reading(self.judging, given, actors)

    def judging(self, model: Scorer) -> OpenJudge:
        """The judge that reads this reward model."""
        attributor = Attributor(model, self.method, self.baseline, self.steps, self.pass_tokens)

        def judge(rollout: Rollout) -> Judgement:
            scores, found = model.score(rollout), attributor.attribute(rollout)
            gaps = found.gaps(scores)
            columns = {"completeness_gap": gaps, "baseline_score": found.baseline_scores}
            return Judgement(scores=scores, evidence=found.evidence, notes=Notes(columns))

        return judge

"""The reward model's own attention over the response: the evidence of attention-based credit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout

if TYPE_CHECKING:
    from tokencredit.context import Context
    from tokencredit.models.scorer import Scorer
    from tokencredit.stages.actors import Actors


@dataclass(slots=True, kw_only=True)
class AttentionJudge(Judge):
    """Attention from where the score is read to each response token (Chan et al. 2024).

    Head-mean of one layer's post-softmax weights; the part on the prompt is left out, so a row need
    not sum to 1.
    """

    evidence: ClassVar[Evidence] = Evidence.nonnegative
    needs: ClassVar[tuple[str, ...]] = ("reward_model",)

    layer: int = -1
    """Which layer's attention; negative numbers count from the last."""

    def open(self, context: Context, actors: Actors) -> OpenJudge:
        """The reward model behind a callable; one pass gives scores and evidence."""
        from tokencredit.models.scorer import open_scorer

        return self.judging(open_scorer(context, actors.tokenizer))

    def judging(self, model: Scorer) -> OpenJudge:
        """The judge that reads this reward model; one that cannot be read is refused at once."""
        model.attention_row(self.layer)

        def judge(rollout: Rollout) -> Judgement:
            scores, weights = model.score_and_attention(rollout, self.layer)
            return Judgement(scores=scores, evidence=weights)

        return judge

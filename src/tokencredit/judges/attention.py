"""The reward model's own attention over the response: the evidence of attention-based credit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from tokencredit.fields import added
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge, Seen
from tokencredit.judges.retokenised import reading
from tokencredit.models.attention.row import check_attention
from tokencredit.models.attention.weights import check_named
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout


class RowAt(str, Enum):
    """Whose attention is read."""

    score_position = "score_position"
    """The attention of the position at which the reward model reads its score."""
    last = "last"
    """The attention of the last response token, wherever the score is read."""


@dataclass(slots=True, kw_only=True)
class AttentionJudge(Judge):
    """Attention from where the score is read to each response token (Chan et al. 2024).

    Head-mean of one layer's post-softmax weights; the part on the prompt is left out, so a row need
    not sum to 1.

    The two choices of `row` are one where the score is read at the last token, which is the default
    (`reward_model.score_at=end`). They differ for `score_at=before_end`, in responses that ended:
    the score is read one token before the end token, which that position does not see, so the end
    token gets no weight. The authors' classifier has pad = end token and reads its score there, but
    their row is the end token's own: `reward_model.score_at=before_end judge.row=last`.
    """

    evidence: ClassVar[Evidence] = Evidence.nonnegative
    needs: ClassVar[tuple[str, ...]] = ("reward_model",)

    layer: int = -1
    """Which layer's attention; negative numbers count from the last."""
    heads: list[int] = added([])
    """Numbers of the heads whose mean is taken; empty: all."""
    row: RowAt = added(RowAt.score_position)
    """score_position, or last: the row of the last response token, which differs from it for
    reward_model.score_at=before_end."""

    def __post_init__(self) -> None:
        """Check the numbers of heads."""
        check_named(self.heads)

    def check_models(self, models: Seen) -> None:
        """The reward model's attention can be read, and has that layer and those heads."""
        model = models["reward_model"]()
        if model is not None:
            check_attention(model, self.layer, self.heads)

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The reward model behind a callable; one pass gives scores and evidence."""
        return reading(self.judging, given, actors)

    def judging(self, model: Scorer) -> OpenJudge:
        """The judge that reads this reward model; one that cannot be read is refused at once."""
        model.check(self.layer, self.heads)
        from_last = self.row is RowAt.last

        def judge(rollout: Rollout) -> Judgement:
            scores, weights = model.score_and_attention(
                rollout, self.layer, self.heads, from_last=from_last
            )
            return Judgement(scores=scores, evidence=weights)

        return judge

"""The live policy's own attention over its response: the evidence of ABC-D and ABC-D2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from jaxtyping import Bool, Float

from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge, Seen
from tokencredit.models.attention.row import check_attention
from tokencredit.models.attention.steps import StepAttention
from tokencredit.models.attention.weights import check_named
from tokencredit.ops import keep, without_gradient
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout

if TYPE_CHECKING:
    from tokencredit.models.policy import PolicyWithValue


class Average(str, Enum):
    """Which steps of the generation count."""

    mean = "mean"
    """All at which a token was visible, equally: ABC-D."""
    last = "last"
    """The step that picked the last token: ABC-D2."""


class Shift(str, Enum):
    """Which token gets a weight."""

    aligned = "aligned"
    """The token that was attended to; the last one, which no step saw, gets none."""
    authors = "authors"
    """The token after it, as in the authors' code; the first one gets none."""


@dataclass(slots=True, kw_only=True)
class PolicyAttentionJudge(Judge):
    """What the policy attended to while it chose the response's tokens (Chan et al. 2024, ABC-D).

    The step that picks y_i gives y_j, j < i, the head-mean weight u_i(j) of one layer. c_j is the
    plain mean of u_i(j) over the steps at which y_j was visible (the paper calls it a weighted
    average, its code takes this one), or u of the last step alone. It is computed again in one pass
    over prompt and response by the policy that is being trained, without gradient; a response of
    one token has no weights. Gives no scores: the scorer's are used.
    """

    evidence: ClassVar[Evidence] = Evidence.nonnegative
    gives_scores: ClassVar[bool] = False

    layer: int = -1
    """Which layer's attention; negative numbers count from the last."""
    heads: list[int] = field(default_factory=list)
    """Numbers of the heads whose mean is taken; empty: all."""
    average: Average = Average.mean
    """mean: over the steps at which a token was visible (ABC-D); last: the last step (ABC-D2)."""
    shift: Shift = Shift.aligned
    """aligned: a weight belongs to the token that was attended to; authors: to the one after it."""

    def __post_init__(self) -> None:
        """Check the numbers of heads."""
        check_named(self.heads)

    def check_models(self, models: Seen) -> None:
        """The policy's attention can be read, and has that layer and those heads."""
        model = models["policy"]()
        if model is not None:
            check_attention(model, self.layer, self.heads)

    def passes(self) -> Mapping[str, float]:
        """One of the policy that is being trained."""
        return {"policy": 1.0}

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The policy behind a callable."""
        return self.watching(cast("PolicyWithValue", actors.policy))

    def watching(self, policy: PolicyWithValue) -> OpenJudge:
        """The judge that reads this policy; one that cannot be read is refused at once."""
        reader = StepAttention(policy.model, self.layer, self.heads)

        @without_gradient
        def judge(rollout: Rollout) -> Judgement:
            mask = rollout.response_mask
            evidence = torch.zeros(mask.shape, device=mask.device)
            order = torch.argsort(rollout.total_lengths, stable=True)
            for rows in order.split(policy.sampling.score_rows):  # as they are scored
                evidence[rows] = self._read(policy, reader, rollout[rows])
            if self.shift is Shift.authors:
                evidence = one_late(evidence, mask)
            return Judgement(scores=torch.zeros(len(mask), device=mask.device), evidence=evidence)

        return judge

    def _read(
        self, policy: PolicyWithValue, reader: StepAttention, part: Rollout
    ) -> Float[torch.Tensor, "B T"]:
        """What the steps paid to each token, from the pass that also gives log-probabilities."""
        start, mask = part.prompt_mask.sum(dim=1), part.response_mask
        with (
            policy.acting(),
            reader.capture(start, mask, last=self.average is Average.last) as seen,
        ):
            policy.states(policy.model, policy.layout(part))
        return seen.mean()


def one_late(
    evidence: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """Each token's evidence moved to the next; that of the last token is lost."""
    return keep(torch.nn.functional.pad(evidence, (1, -1)), mask)

"""Small things that rewards and their metrics depend on, each by hand.

An end that a judge marks behind a response pays the sum of nothing, whether SemiRTO masks the ends
or not: log-ratios are zero there before they are summed.
"""

from __future__ import annotations

import pytest
import torch

from builders import make_rollout, mask_of
from tokencredit.rewards.attribution import Attribution, Total
from tokencredit.rewards.implicit import DPPO, RTO, RTOShaped, SemiRTO
from tokencredit.rewards.redistribute import Redistribute, shares
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rollout import Judgement, Rollout


def two(evidence: list[list[float]], lengths: list[int]) -> tuple[Rollout, Judgement]:
    rollout = make_rollout(lengths)
    return rollout, Judgement(scores=torch.tensor([5.0, -1.0]), evidence=torch.tensor(evidence))


def test_negative_evidence_is_no_weight() -> None:
    found = shares(torch.tensor([[-1.0, 1.0, 3.0], [-2.0, -1.0, 9.0]]), mask_of([3, 2]))
    assert found[0].tolist() == pytest.approx([0, 0.25, 0.75])
    assert found[1].tolist() == pytest.approx([0.5, 0.5, 0])  # none is left: equal shares
    rollout, judgement = two([[-1.0, 1.0, 3.0], [1.0, 1.0, 0.0]], [3, 2])
    paid = Redistribute(beta=1.0).token_rewards(rollout, judgement)
    assert paid.tolist() == [[0, 1.25, 3.75], [-0.5, -0.5, 0]]


@pytest.mark.parametrize("evidence", [[1.0, 3.0], [-1.0, -3.0], [0.0, 0.0]])
def test_a_score_of_0_needs_no_attribution_of_its_sign(evidence: list[float]) -> None:
    """Signs are kept by paying nothing: no token of one sign can earn a sum of 0."""
    rollout = make_rollout([2])
    judgement = Judgement(scores=torch.zeros(1), evidence=torch.tensor([evidence]))
    assert Attribution().token_rewards(rollout, judgement).tolist() == [[0, 0]]
    assert Attribution().measure(rollout, judgement)["attribution/fallbacks"] == 0


@pytest.mark.parametrize("kind", [RTO, DPPO, SemiRTO])
def test_a_score_is_clipped_before_it_is_scaled(kind: type[RTO | DPPO | SemiRTO]) -> None:
    part = two([[0.0, 0.0], [0.0, 0.0]], [2, 1])
    small, large = (kind(score=beta3, score_clip=2.0) for beta3 in (0.5, 3.0))
    assert small.token_rewards(*part).tolist() == [[0, 1.0], [-0.5, 0]]
    assert large.token_rewards(*part).tolist() == [[0, 6.0], [-3.0, 0]]


def test_what_clipping_cost_is_a_mean_over_responses() -> None:
    """They lost 1 + 2 and 0.5 − 2.5."""
    part = two([[2.0, 3.0, 0.5], [1.5, -3.5, 0.0]], [3, 2])
    said = RTO(scale=1.0, clip=1.0).measure(*part)
    assert said["credit/clipped_sum"] == pytest.approx((3.0 - 2.0) / 2)
    assert said["credit/clipped_fraction"] == pytest.approx(4 / 5)


def test_the_clipped_fraction_is_of_tokens_that_are_paid() -> None:
    """DPPO pays the last token of each response alone; one of two is clipped, of 5 tokens."""
    part = two([[2.0, 3.0, 0.5], [0.5, 0.25, 0.0]], [3, 2])
    said = DPPO(scale=1.0, clip=1.0).measure(*part)
    assert said == {"credit/clipped_fraction": 0.5, "credit/clipped_sum": 2.25}


PROMISES: list[tuple[RewardScheme, bool]] = [
    (Sparse(), True),
    (Uniform(), True),
    (Redistribute(), True),
    (Attribution(), True),
    (Attribution(normalise=Total.raw), False),
    (RTOShaped(), True),
    (RTO(), False),
    (DPPO(), False),
    (SemiRTO(), False),
]


@pytest.mark.parametrize(("scheme", "promised"), PROMISES, ids=lambda x: type(x).__name__)
def test_which_schemes_promise_that_rewards_sum_to_the_score(
    scheme: RewardScheme, promised: bool
) -> None:
    assert scheme.preserves_sum() is promised

"""Signed attributions as rewards: sums, signs, and what happens where signs cannot be kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import make_judgement, make_rollout
from tokencredit.commands.check_scheme import check_scheme
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.attribution import Attribution, Total, can_keep_signs, tilted
from tokencredit.rollout import Judgement, Rollout

RAW = Attribution(normalise=Total.raw)


def one(evidence: list[float], score: float) -> tuple[Rollout, Judgement]:
    return make_rollout([len(evidence)]), Judgement(
        scores=torch.tensor([score]), evidence=torch.tensor([evidence])
    )


def paid(evidence: list[float], score: float, scheme: Attribution | None = None) -> list[float]:
    rewards: list[float] = (
        (scheme or Attribution()).token_rewards(*one(evidence, score))[0].tolist()
    )
    return rewards


@pytest.mark.parametrize(
    ("evidence", "score", "expected"),
    [
        # P = 4, N = 3, D = √(16 + 48) = 8: the sides sum to 6 and 2, or the other way round.
        ([3.0, 1.0, -3.0], 4.0, [4.5, 1.5, -2.0]),
        ([3.0, 1.0, -3.0], -4.0, [1.5, 0.5, -6.0]),
        ([3.0, 1.0, -3.0], 1.0, [3.0, 1.0, -3.0]),  # they sum to the score already
        ([1.0, -1.0], 1.5, [2.0, -0.5]),  # Σa = 0: D = √(2.25 + 4) = 2.5
        ([1.0, -4.0], 0.0, [2.0, -2.0]),  # a score of 0: both sides √(PN)
        ([-1.0, -3.0], -2.0, [-0.5, -1.5]),  # one sign only: a share of the score
        ([0.5], 3.0, [3.0]),
    ],
)
def test_tilted_attributions_by_hand(
    evidence: list[float], score: float, expected: list[float]
) -> None:
    assert paid(evidence, score) == pytest.approx(expected, abs=1e-6)
    assert Attribution().measure(*one(evidence, score))["attribution/fallbacks"] == 0


@pytest.mark.parametrize(
    ("evidence", "score", "expected"),
    [
        ([-1.0, -3.0], 2.0, [2.0, 0.0]),  # (2 + 4) / 2 more for each
        ([0.0, 0.0, 0.0], 3.0, [1.0, 1.0, 1.0]),
        ([1e-9, -2.0], 1.0, [1.5, -0.5]),  # what is positive is rounding
        ([2.0], -1.0, [-1.0]),
    ],
)
def test_where_no_token_has_the_sign_of_the_score_the_rest_is_spread(
    evidence: list[float], score: float, expected: list[float]
) -> None:
    assert paid(evidence, score) == pytest.approx(expected, abs=1e-6)
    assert Attribution().measure(*one(evidence, score))["attribution/fallbacks"] == 1


def test_scaling_by_the_quotient_of_sums_would_flip_signs_and_explode() -> None:
    evidence = [1.0, -1.01]
    naive = [a * 2.0 / sum(evidence) for a in evidence]
    assert naive[0] < -100  # the good token is fined
    rewards = paid(evidence, 2.0)
    assert rewards[0] > 0 > rewards[1] and max(map(abs, rewards)) < 3


def test_raw_pays_attributions_as_they_are() -> None:
    assert paid([0.3, -1.0, 0.0], 5.0, RAW) == pytest.approx([0.3, -1.0, 0.0])
    assert not RAW.preserves_sum() and Attribution().preserves_sum()
    assert "attribution/fallbacks" not in RAW.measure(*one([0.3, -1.0], 5.0))


def test_share_of_negative_attributions_is_measured() -> None:
    rollout = make_rollout([2, 3], width=4)
    evidence = torch.tensor([[3.0, -1.0, 9.0, -9.0], [-1.0, -1.0, 2.0, torch.nan]])
    judgement = Judgement(scores=torch.tensor([1.0, 1.0]), evidence=evidence)
    measured = Attribution().measure(rollout, judgement)
    assert measured["attribution/negative_share"] == pytest.approx((0.25 + 0.5) / 2)
    assert RAW.measure(rollout, judgement) == {
        "attribution/negative_share": measured["attribution/negative_share"]
    }


signed = st.floats(-5, 5, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)


@given(evidence=st.lists(signed, min_size=1, max_size=12), score=st.floats(-8, 8, width=32))
def test_papers_S7_attributions_sum_to_the_score_and_keep_their_signs(
    evidence: list[float], score: float
) -> None:
    rollout, judgement = one(evidence, score)
    rewards = Attribution().token_rewards(rollout, judgement)
    total = float(masked_sum(rewards, rollout.response_mask))
    size = sum(map(abs, evidence))
    assert total == pytest.approx(score, abs=1e-5)
    if can_keep_signs(judgement.evidence.double(), judgement.scores.double()):
        assert (rewards * judgement.evidence >= 0).all()
        assert float(rewards.abs().sum()) <= abs(score) + size + 1e-4


def entropy(rewards: Tensor, attributions: Tensor) -> float:
    """Σ |r| log(|r| / |a|) − |r| + |a|."""
    r, a = rewards.abs(), attributions.abs()
    return float((r * (r / a).log() - r + a).sum())


def test_no_rewards_with_these_signs_and_this_sum_are_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    attributions = torch.tensor([[0.7, -1.3, 0.2, -0.4, 2.0]], dtype=torch.double)
    rewards = tilted(attributions, torch.tensor([-1.5], dtype=torch.double))
    least = entropy(rewards, attributions)
    for _ in range(50):
        step = torch.randn(5, generator=generator, dtype=torch.double)
        other = rewards + 1e-2 * (step - step.mean())
        assert entropy(other, attributions) > least


def test_a_mask_shifted_by_one_would_break_the_sum() -> None:
    rollout = make_rollout([4, 1, 3], width=6)
    judgement = make_judgement(rollout)
    noise = keep(judgement.evidence - 0.5, rollout.response_mask)
    shifted = replace(rollout, response_mask=rollout.response_mask.roll(1, dims=1))
    rewards = Attribution().token_rewards(shifted, replace(judgement, evidence=noise))
    total = masked_sum(rewards, rollout.response_mask)
    assert not torch.allclose(total, judgement.scores, atol=1e-3)


def test_both_keep_the_promises_of_schemes() -> None:
    assert "sums to the score" in check_scheme(Attribution())
    assert "sums to the score" not in check_scheme(RAW)

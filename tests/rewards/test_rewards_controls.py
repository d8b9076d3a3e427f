"""Controls for credit by attention: numbers by hand, and what each may and may not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import make_judgement, make_rollout
from tokencredit.errors import UserError
from tokencredit.ops import masked_sum
from tokencredit.rewards.controls import Position, Recency, Shuffled, tenths
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rollout import Judgement, Rollout

LENGTHS = [4, 1, 3, 6]
PROFILE = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]


def paid(scheme: Redistribute, length: int, score: float = 1.0) -> list[float]:
    rollout = make_rollout([length])
    nothing = Judgement(scores=torch.tensor([score]), evidence=torch.zeros(1, length))
    return scheme.token_rewards(rollout, nothing)[0].tolist()


def both(lengths: list[int]) -> tuple[Rollout, Judgement]:
    rollout = make_rollout(lengths)
    return rollout, make_judgement(rollout)


def with_ids(rollout: Rollout, ids: torch.Tensor) -> Rollout:
    return replace(rollout, response_ids=ids)


def test_recency_halves_every_quarter_of_the_response() -> None:
    # n = 4, h = 1: weights 1/8, 1/4, 1/2, 1 of 15/8
    assert paid(Recency(beta=1.0), 4) == pytest.approx([1 / 15, 2 / 15, 4 / 15, 8 / 15])
    # n = 8, h = 2: two tokens a halving, and 0.8 of it beside 0.2 on the last token
    weights = [2 ** (-k / 2) for k in range(7, -1, -1)]
    expected = [0.8 * w / sum(weights) for w in weights]
    expected[-1] += 0.2
    assert paid(Recency(), 8) == pytest.approx(expected)
    assert paid(Recency(), 1, -2.0) == [-2.0]
    even = paid(Recency(beta=1.0, half_life=1e6), 5)
    assert even == pytest.approx([0.2] * 5, abs=1e-5)


def test_position_pays_by_tenths() -> None:
    # n = 5: the middles of the tokens lie at 1/10, 3/10, … : tenths 1, 3, 5, 7, 9
    assert paid(Position(beta=1.0, profile=PROFILE), 5) == pytest.approx(
        [1 / 25, 3 / 25, 5 / 25, 7 / 25, 9 / 25]
    )
    # n = 20: two tokens in each tenth
    assert paid(Position(beta=1.0, profile=PROFILE), 20) == pytest.approx(
        [w / 90 for w in PROFILE for _ in range(2)]
    )
    # no weight where the response has tokens: equal parts, as wherever evidence vanishes
    one_place = [1.0, *[0.0] * 9]
    assert paid(Position(beta=1.0, profile=one_place), 2) == [0.5, 0.5]


def test_tenths_of_every_length_are_all_there_and_in_order() -> None:
    lengths = [1, 7, 10, 33]
    places = tenths(make_rollout(lengths).response_mask)
    for row, length in zip(places, lengths, strict=True):
        own = row[:length]
        assert (own.diff() >= 0).all() and own.min() >= 0 and own.max() <= 9
        assert len(set(own.tolist())) == min(length, 10)


@pytest.mark.parametrize(
    "profile", [[], [1.0] * 9, [0.0] * 10, [-1.0, *[1.0] * 9], [float("nan"), *[1.0] * 9]]
)
def test_a_profile_that_is_none_is_refused(profile: list[float]) -> None:
    with pytest.raises(UserError, match=r"reward_scheme\.profile = .*tokencredit profile"):
        Position(profile=profile).check()


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("inf"), float("nan")])
def test_a_half_life_that_is_none_is_refused(half_life: float) -> None:
    with pytest.raises(UserError, match=r"reward_scheme\.half_life"):
        Recency(half_life=half_life)
    with pytest.raises(UserError, match=r"reward_scheme\.beta"):
        Recency(beta=2.0)


def test_shuffled_pays_the_same_weights_in_another_order() -> None:
    rollout, judgement = both([12, 30, 1])
    plain = Redistribute(beta=1.0).token_rewards(rollout, judgement)
    mixed = Shuffled(beta=1.0).token_rewards(rollout, judgement)
    assert torch.allclose(plain.sort().values, mixed.sort().values, atol=1e-6)
    moved = (plain != mixed).float().sum(dim=1)
    assert moved[0] >= 6 and moved[1] >= 15 and moved[2] == 0


def test_the_order_is_the_responses_own() -> None:
    rollout, judgement = both([12, 12])
    same = rollout.response_ids.clone()
    same[1] = same[0]
    alike = Judgement(scores=torch.ones(2), evidence=judgement.evidence[[0, 0]])
    paid_twice = Shuffled().token_rewards(with_ids(rollout, same), alike)
    assert torch.equal(paid_twice[0], paid_twice[1])
    same[1, 3] += 1
    other = Shuffled().token_rewards(with_ids(rollout, same), alike)
    assert torch.equal(other[0], paid_twice[0]) and not torch.equal(other[1], paid_twice[0])


def test_shuffled_orders_are_even_over_many_responses() -> None:
    # where the first token's weight goes, over 600 responses of four: 150 each, ±4 standard errors
    count = 600
    rollout = make_rollout([4] * count)
    ids = torch.stack([torch.arange(count) // 7**k % 7 + 3 for k in range(4)], dim=1)
    evidence = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(count, 4)
    spread = Shuffled(beta=1.0).token_rewards(
        with_ids(rollout, ids), Judgement(scores=torch.ones(count), evidence=evidence)
    )
    landed = spread.sum(dim=0)
    assert landed.sum() == count
    assert (landed - count / 4).abs().max() < 4 * (count * 0.25 * 0.75) ** 0.5


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), beta=st.sampled_from([0.3, 1.0])
)
def test_controls_preserve_the_sum(lengths: list[int], beta: float) -> None:
    rollout, judgement = both(lengths)
    for scheme in (Shuffled(beta=beta), Recency(beta=beta), Position(beta=beta, profile=PROFILE)):
        rewards = scheme.token_rewards(rollout, judgement)
        total = masked_sum(rewards, rollout.response_mask)
        assert torch.allclose(total, judgement.scores, atol=1e-5)
        assert not rewards[~rollout.response_mask].any()


def test_only_shuffled_reads_the_judge() -> None:
    rollout, judgement = both(LENGTHS)
    blind = Judgement(scores=judgement.scores, evidence=torch.zeros_like(judgement.evidence))
    for scheme in (Recency(), Position(profile=PROFILE)):
        assert scheme.evidence.value == "none"
        assert torch.equal(
            scheme.token_rewards(rollout, judgement), scheme.token_rewards(rollout, blind)
        )
    assert Shuffled().evidence.value == "nonnegative"
    assert Shuffled().measure(rollout, blind)["credit/fallback_fraction"] == 0.75
    assert Recency().measure(rollout, blind)["credit/fallback_fraction"] == 0

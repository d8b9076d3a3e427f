"""Rewards from a discriminator's probabilities, against the numbers of papers.md (C1, C5–C7)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import make_rollout
from tokencredit.commands.check_scheme import check_scheme
from tokencredit.errors import UserError
from tokencredit.rewards.tlcr import (
    TLCR,
    Signs,
    ThresholdOn,
    TLCRFixed,
    TokenProbability,
)
from tokencredit.rollout import Judgement

COMPAT = TLCR(softmax_twice=True, reward_shift=1, skip_last=True)
FIXED_COMPAT = TLCRFixed(threshold_on=ThresholdOn.second_softmax)
SCHEMES: list[TokenProbability] = [
    TLCR(),
    TLCR(signs=Signs.positive),
    TLCR(signs=Signs.negative),
    COMPAT,
    TLCRFixed(),
    FIXED_COMPAT,
    TLCRFixed(threshold_on=ThresholdOn.nothing, signs=Signs.negative),
]
SURE = 60.0
"""Log-odds at which D is 1 in float32."""
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=repr)


def paid(scheme: TokenProbability, log_odds: list[float], ending: str = "open") -> list[float]:
    """What a response earns, its end token (ending="eos") included; "stop": by a stop string."""
    rollout = make_rollout([len(log_odds)])
    rollout = replace(
        rollout,
        finished=torch.tensor([ending != "open"]),
        stopped=torch.tensor([ending == "stop"]),
    )
    judgement = Judgement(scores=torch.zeros(1), evidence=torch.tensor([log_odds]))
    return scheme.token_rewards(rollout, judgement)[0].tolist()


def odds(probability: float) -> float:
    """The log-odds of D."""
    return math.log(probability / (1 - probability))


def test_papers_C1_continuous_rewards_and_those_through_a_second_softmax() -> None:
    probabilities = [0.0, SURE, -SURE, odds(0.8808), odds(0.25)]  # D
    assert paid(TLCR(), probabilities) == pytest.approx([0, 1, -1, 0.7616, -0.5])
    twice = paid(TLCR(softmax_twice=True), probabilities)
    # tanh(±½) = ±.46211716; tanh(.7616 / 2) = .36340; tanh(−.25) = −.24492
    expected = [0, 0.46211716, -0.46211716, 0.36340, -0.2449187]
    assert twice == pytest.approx(expected, abs=3e-6)


def test_papers_C5_shifted_rewards_are_paid_one_token_late_and_their_sum_stays() -> None:
    shifted = TLCR(reward_shift=1)
    content = [odds(0.9), odds(0.2), odds(0.75)]
    assert paid(TLCR(), [*content, 3.0], "eos") == pytest.approx([0.8, -0.6, 0.5, 0])
    late = paid(shifted, [*content, 3.0], "eos")
    assert late == pytest.approx([0, 0.8, -0.6, 0.5])  # the end token has the last content's
    assert sum(late) == pytest.approx(0.7)


def test_papers_C6_rewards_of_one_sign_add_up_to_all() -> None:
    rollout = make_rollout([5, 1, 3])
    said = 2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    judgement = Judgement(scores=torch.zeros(3), evidence=said)
    for make in (TLCR, TLCRFixed):
        whole, good, bad = (
            make(signs=signs).token_rewards(rollout, judgement)
            for signs in (Signs.both, Signs.positive, Signs.negative)
        )
        assert torch.equal(good + bad, whole)
        assert good.min() >= 0 >= bad.max() and good.any() and bad.any()


def test_papers_C7_a_doubtful_token_is_neutral_in_the_authors_code_alone() -> None:
    doubtful = [odds(0.65), odds(0.35), odds(0.59), odds(0.41)]
    assert paid(TLCRFixed(), doubtful) == [1, -1, 0, 0]
    assert paid(FIXED_COMPAT, doubtful) == [0, 0, 0, 0]
    assert paid(FIXED_COMPAT, [odds(0.7027), odds(0.7028)]) == [0, 1]
    assert paid(FIXED_COMPAT, [odds(0.2973), odds(0.2972)]) == [0, -1]
    always = TLCRFixed(threshold_on=ThresholdOn.nothing)
    assert paid(always, [*doubtful, 0.0]) == [1, -1, 1, -1, 0]


def test_the_end_token_earns_nothing_and_a_last_token_only_where_it_is_not_skipped() -> None:
    good = [odds(0.75)] * 3
    assert paid(TLCR(), good, "eos") == pytest.approx([0.5, 0.5, 0])
    assert paid(TLCR(), good, "open") == pytest.approx([0.5] * 3)
    assert paid(TLCR(), good, "stop") == pytest.approx([0.5] * 3)
    skipping = TLCR(skip_last=True)
    assert paid(skipping, good, "open") == pytest.approx([0.5, 0.5, 0])
    assert paid(skipping, good, "eos") == pytest.approx([0.5, 0.5, 0])
    assert paid(COMPAT, good, "open") == pytest.approx([0, 0.2449187, 0.2449187])
    assert paid(TLCR(), [2.0], "eos") == [0]  # nothing but the end


@every_scheme
def test_the_schemes_keep_what_schemes_promise(scheme: TokenProbability) -> None:
    assert len(check_scheme(scheme)) > 5


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=8))
def test_rewards_lie_between_the_bounds_and_have_the_sign_of_the_log_odds(
    log_odds: list[float],
) -> None:
    for scheme, most in ((TLCR(), 1), (TLCR(softmax_twice=True), 0.46212), (TLCRFixed(), 1)):
        for reward, said in zip(paid(scheme, log_odds), log_odds, strict=True):
            assert abs(reward) <= most
            assert reward * said >= 0


def test_shares_of_good_and_bad_tokens_are_measured_over_judged_tokens() -> None:
    rollout = replace(make_rollout([5]), finished=torch.tensor([True]))
    said = torch.tensor([[1.0, -1.0, 2.0, 0.1, 9.0]])  # the end token does not count
    judgement = Judgement(scores=torch.zeros(1), evidence=said)
    found = TLCRFixed().measure(rollout, judgement)
    assert found == {"tlcr/positive_fraction": 0.5, "tlcr/negative_fraction": 0.25}


@pytest.mark.parametrize("values", [{"threshold": 0.4}, {"threshold": 1.0}, {"reward_shift": 2}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"reward_scheme\.{next(iter(values))}"):
        TLCRFixed(**values)  # type: ignore[arg-type]

"""Schemes on DPO's log-ratios: numbers of the papers, sums, limits, sentence ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import make_judgement, make_rollout
from tokencredit.algorithms.kl import Controller, KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.implicit import (
    DPPO,
    RTO,
    Implicit,
    ImplicitScored,
    RTOShaped,
    SemiRTO,
    paid_at_ends,
)
from tokencredit.rollout import Judgement, Rollout

RHO, K1 = [0.4, -2.0, 1.5], [0.1, -0.2, 0.3]
KINDS: list[type[Implicit]] = [RTO, DPPO, SemiRTO, RTOShaped]
every_kind = pytest.mark.parametrize("kind", KINDS)


def case(rho: list[float], k1: list[float], score: float = 0.0) -> tuple[Rollout, Judgement]:
    """One response with these log-ratios and these distances to the reference."""
    rollout = make_rollout([len(rho)])
    rollout = replace(rollout, logp=rollout.ref_logp + torch.tensor([k1]))
    return rollout, Judgement(scores=torch.tensor([score]), evidence=torch.tensor([rho]))


def shaped(scheme: Implicit, beta2: float, part: tuple[Rollout, Judgement]) -> list[float]:
    """What PPO is paid: the scheme's rewards less the penalty of a fixed coefficient."""
    algorithm = PPO(kl=KLPenalty(coef=beta2, controller=Controller.fixed))
    rewards = scheme.token_rewards(*part)
    return algorithm.shape(rewards, part[0], algorithm.initial_state()).total[0].tolist()


def test_papers_B1_numbers_of_the_released_code() -> None:
    scheme = RTO(scale=0.05, clip=0.05, score=1.0, score_clip=10.0)
    found = shaped(scheme, 0.01, case(RHO, K1, 1.5))
    assert found == pytest.approx([0.019, -0.048, 1.547], abs=1e-6)
    assert sum(found) == pytest.approx(1.518, abs=1e-6)
    assert shaped(scheme, 0.01, case(RHO, K1, 99.0))[2] == pytest.approx(10.047, abs=1e-6)
    unclipped = shaped(replace(scheme, clip=None), 0.01, case(RHO, K1, 1.5))
    assert unclipped != pytest.approx(found, abs=1e-3)


def test_papers_B2_dense_and_sparse_have_one_sum_without_a_clip() -> None:
    dense, sparse = (shaped(kind(scale=0.1), 0.03, case(RHO, K1)) for kind in (RTO, DPPO))
    assert dense == pytest.approx([0.037, -0.194, 0.141], abs=1e-6)
    assert sparse == pytest.approx([-0.003, 0.006, -0.019], abs=1e-6)
    assert sum(dense) == pytest.approx(-0.016) == pytest.approx(sum(sparse))


def test_papers_B2_with_a_clip_the_sums_differ_and_the_code_says_so() -> None:
    part = case(RHO, K1)
    dense, sparse = RTO(scale=0.1, clip=0.05), DPPO(scale=0.1)
    totals = [float(scheme.token_rewards(*part).sum()) for scheme in (dense, sparse)]
    assert totals == pytest.approx([0.04 - 0.05 + 0.05, -0.01])
    said = dense.measure(*part)
    assert said["credit/clipped_fraction"] == pytest.approx(2 / 3)
    assert totals[0] + said["credit/clipped_sum"] == pytest.approx(totals[1])
    assert sparse.measure(*part) == {"credit/clipped_fraction": 0, "credit/clipped_sum": 0}


def test_papers_B3_three_equal_models_pay_nothing() -> None:
    part = case([0.0] * 3, [0.0] * 3)
    for kind in KINDS:
        assert shaped(kind(), 0.03, part) == [0, 0, 0]


def test_papers_B3_a_policy_that_is_the_dpo_model_is_paid_nothing_at_equal_beta() -> None:
    same = case(K1, K1)
    assert shaped(RTO(scale=0.1), 0.1, same) == pytest.approx([0, 0, 0], abs=1e-7)
    assert shaped(RTO(scale=0.1), 0.05, same) != pytest.approx([0, 0, 0], abs=1e-3)


@every_kind
@pytest.mark.parametrize("scale", [0.0, 0.3, -0.2])
def test_papers_B5_scale_is_linear_until_the_clip(kind: type[Implicit], scale: float) -> None:
    """0 turns the log-ratios off and a negative scale reverses them (R2 of the released code)."""
    rollout = make_rollout([4, 1, 6])
    judgement = make_judgement(rollout)
    one = kind(scale=1.0)._unclipped(rollout, judgement)
    assert torch.allclose(kind(scale=scale)._unclipped(rollout, judgement), scale * one)
    if kind is not RTOShaped:
        limit = 0.02
        clipped = kind(scale=scale, clip=limit).token_rewards(rollout, judgement)
        assert torch.allclose(clipped, (scale * one).clamp(-limit, limit))


@pytest.mark.parametrize(("scale", "factor"), [(0.0, 1.0), (-0.5, 1.0), (0.2, 0.2)])
def test_papers_B5_the_released_code_ignores_a_scale_of_0_and_below(
    scale: float, factor: float
) -> None:
    part = case(RHO, K1)
    found = RTO(scale=scale, zero_is_one=True).token_rewards(*part)
    assert torch.allclose(found, factor * part[1].evidence)
    assert torch.allclose(RTO(scale=scale).token_rewards(*part), scale * part[1].evidence)


def test_papers_B5_a_function_of_the_prompt_moves_no_margin() -> None:
    """Two responses to one prompt: what is added to every total is not in their difference."""
    rollout = make_rollout([3, 5])
    judgement = make_judgement(rollout)
    totals = RTO().token_rewards(rollout, judgement).sum(dim=1)
    added = replace(judgement, scores=torch.full((2,), 7.0))
    more = RTO(score=1.0).token_rewards(rollout, added).sum(dim=1)
    assert float(more[0] - more[1]) == pytest.approx(float(totals[0] - totals[1]), abs=1e-5)
    assert float(more[0] - totals[0]) == pytest.approx(7.0, abs=1e-5)


@every_kind
def test_papers_B6_the_end_token_is_paid_and_nothing_behind_it(kind: type[Implicit]) -> None:
    rollout = make_rollout([3, 5], width=8)
    judgement = make_judgement(rollout)
    behind = replace(judgement, evidence=judgement.evidence + 9.0 * ~rollout.response_mask)
    rewards = kind().token_rewards(rollout, behind)
    assert torch.equal(rewards, kind().token_rewards(rollout, judgement))
    assert (rewards[~rollout.response_mask] == 0).all()
    for row, length in enumerate((3, 5)):
        assert rewards[row, length - 1] != 0
        moved = judgement.evidence.clone()
        moved[row, length - 1] += 1
        again = kind().token_rewards(rollout, replace(judgement, evidence=moved))
        expected = 0.0 if kind is RTOShaped else 0.1  # shaped: the end gets what is missing
        change = float(again[row, length - 1] - rewards[row, length - 1])
        assert change == pytest.approx(expected, abs=1e-6)


lengths_of_rows = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@given(
    lengths=lengths_of_rows,
    seed=st.integers(0, 2**31),
    scale=st.floats(-1, 1),
    score=st.floats(-2, 2),
)
def test_dense_sentence_and_delayed_pay_one_sum(
    lengths: list[int], seed: int, scale: float, score: float
) -> None:
    rollout = make_rollout(lengths, width=8)
    judgement = make_judgement(rollout, seed)
    signed = replace(judgement, evidence=judgement.evidence - 0.5)
    expected = scale * masked_sum(signed.evidence, rollout.response_mask) + score * signed.scores
    for kind in (RTO, DPPO, SemiRTO):
        scheme = kind(scale=scale, score=score)
        rewards = scheme.token_rewards(rollout, signed)
        assert torch.allclose(rewards.sum(dim=1), expected, atol=1e-4), kind
        assert torch.equal(rewards, keep(rewards, rollout.response_mask))


@given(lengths=lengths_of_rows, seed=st.integers(0, 2**31), clip=st.none() | st.floats(0.001, 1))
def test_shaped_always_totals_the_score(lengths: list[int], seed: int, clip: float | None) -> None:
    rollout = make_rollout(lengths, width=8)
    judgement = make_judgement(rollout, seed)
    rewards = RTOShaped(scale=0.4, clip=clip).token_rewards(rollout, judgement)
    assert torch.allclose(rewards.sum(dim=1), judgement.scores, atol=1e-5)
    if clip is None:
        dense = RTO(scale=0.4).token_rewards(rollout, judgement)
        for row, length in enumerate(lengths):
            assert torch.allclose(rewards[row, : length - 1], dense[row, : length - 1])


def test_sentences_are_paid_where_they_end_by_hand() -> None:
    rho = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
    ends = torch.tensor([[False, True, False, False, False]])
    rollout = make_rollout([5])
    judgement = Judgement(scores=torch.tensor([10.0]), evidence=rho, ends=ends)
    found = SemiRTO(scale=0.1).token_rewards(rollout, judgement)[0].tolist()
    assert found == pytest.approx([0, 0.3, 0, 0, 2.8])
    with_score = SemiRTO(scale=0.1, score=1.0).token_rewards(rollout, judgement)[0].tolist()
    assert with_score == pytest.approx([0, 0.3, 0, 0, 12.8])
    every = torch.ones_like(ends)
    assert torch.equal(paid_at_ends(rho, every), rho)
    unknown = SemiRTO(scale=0.1).token_rewards(rollout, replace(judgement, ends=None))
    assert torch.equal(unknown, DPPO(scale=0.1).token_rewards(rollout, judgement))
    assert torch.equal(
        SemiRTO().token_rewards(rollout, replace(judgement, ends=every)),
        RTO().token_rewards(rollout, judgement),
    )


def test_ends_behind_a_response_count_for_nothing() -> None:
    rollout = make_rollout([3, 5], width=7)
    judgement = make_judgement(rollout)
    ends = torch.zeros_like(rollout.response_mask)
    ends[:, 1] = True
    dirty = ends | ~rollout.response_mask
    clean, found = (
        SemiRTO().token_rewards(rollout, replace(judgement, ends=each)) for each in (ends, dirty)
    )
    assert torch.equal(clean, found)
    order = torch.tensor([1, 0])
    shuffled = replace(judgement, ends=ends)[order]
    assert torch.equal(SemiRTO().token_rewards(rollout[order], shuffled), clean[order])


def test_a_clip_of_none_of_the_tokens_and_of_all() -> None:
    part = case([0.0, 0.0], [0.0, 0.0])
    assert RTO(clip=0.1).measure(*part)["credit/clipped_fraction"] == 0
    part = case([50.0, -50.0], [0.0, 0.0])
    assert RTO(clip=0.1).measure(*part) == {
        "credit/clipped_fraction": 1,
        "credit/clipped_sum": pytest.approx(0, abs=1e-6),
    }


@every_kind
@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_clip_that_clips_everything_is_refused(kind: type[Implicit], clip: float) -> None:
    with pytest.raises(UserError, match=r"reward_scheme\.clip = .*must be null or > 0"):
        kind(clip=clip)


@pytest.mark.parametrize("kind", [RTO, DPPO, SemiRTO])
def test_a_score_clip_of_0_is_refused(kind: type[ImplicitScored]) -> None:
    with pytest.raises(UserError, match=r"reward_scheme\.score_clip = 0"):
        kind(score_clip=0.0)

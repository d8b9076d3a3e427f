"""Scores and token rewards before they are learned from: scale, clips, and missing ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import make_judgement, make_rollout, mask_of
from tokencredit.algorithms import shaping
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.scores import (
    Normalise,
    clip_scores,
    cut_off,
    normalise_scores,
    pay_last,
    reference_scores,
    return_sd,
)
from tokencredit.errors import UserError
from tokencredit.ops import k1, keep, masked_sum
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rollout import Judgement, Rollout

FREE = {"kl/coef": 0.0}


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_papers_A7_rewards_are_added_where_tokens_are_and_stay_float32(poison: float) -> None:
    rollout = make_rollout([3, 1])
    mask = rollout.response_mask
    rewards = torch.where(mask, torch.tensor(0.1, dtype=torch.float64), poison)
    shaped = PPO(kl=KLPenalty(coef=0.0)).shape(rewards, rollout, FREE).total
    assert shaped.dtype == torch.float32
    assert torch.equal(shaped, torch.where(mask, torch.tensor(0.1), 0.0))


# Scores: normalised on the reference's samples, then clipped


def test_scores_in_units_of_the_references_by_hand() -> None:
    state = reference_scores(torch.tensor([1.0, 3.0, 5.0]))
    assert state == {"score/reference_mean": 3.0, "score/reference_sd": 2.0}
    assert normalise_scores(torch.tensor([3.0, 7.0]), state).tolist() == [0, 2]
    algorithm = PPO(normalise=Normalise.reference, score_clip=1.5)
    found = algorithm.paid_scores(torch.tensor([3.0, 7.0, 5.0, -9.0]), state)
    assert found.tolist() == [0, 1.5, 1, -1.5]


@pytest.mark.parametrize("scores", [[2.0, 2.0, 2.0], [1.0], [1.0, float("nan")]])
def test_reference_scores_without_a_scale_are_an_error(scores: list[float]) -> None:
    with pytest.raises(UserError, match=r"algorithm\.normalise = 'reference'.*normalise_samples"):
        reference_scores(torch.tensor(scores))


def test_papers_A7_scores_are_clipped_before_the_scheme_spreads_them() -> None:
    rollout = make_rollout([4, 2])
    scores = torch.tensor([20.0, -20.0])
    algorithm = PPO(score_clip=10.0)
    paid = algorithm.paid_scores(scores, FREE)
    rewards = Uniform().token_rewards(rollout, replace(make_judgement(rollout), scores=paid))
    assert rewards.sum(dim=1).tolist() == [10, -10]
    # a limit on token rewards would let the whole score through
    plain = Uniform().token_rewards(rollout, replace(make_judgement(rollout), scores=scores))
    assert PPO(reward_clip=10.0).shape(plain, rollout, FREE).rewards.sum(dim=1).tolist() == [
        20,
        -20,
    ]
    assert clip_scores(scores, None) is scores and PPO().paid_scores(scores, FREE) is scores


# B23: one divisor for a batch


def spread() -> tuple[Rollout, dict[str, Tensor]]:
    rollout = make_rollout([4, 1, 3, 6])
    judgement = make_judgement(rollout)
    schemes: list[RewardScheme] = [Sparse(), Uniform(), Redistribute()]
    return rollout, {type(s).__name__: s.token_rewards(rollout, judgement) for s in schemes}


def test_field_B23_schemes_stay_equal_in_sum() -> None:
    rollout, rewards = spread()
    algorithm = PPO(normalise=Normalise.return_std)
    mask = rollout.response_mask
    sums = {
        name: masked_sum(algorithm.shape(r, rollout, FREE).rewards, mask)
        for name, r in rewards.items()
    }
    plain = masked_sum(rewards["Sparse"], mask)
    for found in sums.values():
        assert torch.allclose(found, plain / plain.std(), atol=1e-6)
        assert found.std().item() == pytest.approx(1)


def test_field_B23_dividing_by_the_spread_of_tokens_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_token(rewards: Tensor, mask: Tensor) -> Tensor:
        return rewards[mask].std()

    monkeypatch.setattr(shaping, "return_sd", by_token)
    rollout, rewards = spread()
    sparse, uniform = (
        PPO(normalise=Normalise.return_std).shape(rewards[n], rollout, FREE).rewards.sum(dim=1)
        for n in ("Sparse", "Uniform")
    )
    assert not torch.allclose(sparse, uniform, rtol=0.1)


def test_return_std_comes_before_the_clip_and_scales_the_baseline_too() -> None:
    rollout = make_rollout([2, 1])
    rewards = torch.tensor([[4.0, 4.0], [0.0, 0.0]])
    algorithm = PPO(normalise=Normalise.return_std, reward_clip=0.5)
    shaped = algorithm.shape(rewards, rollout, FREE, torch.tensor([32.0**0.5, 0.0]))
    sd = (2 * 4.0**2) ** 0.5  # of 8 and 0
    assert 4 / sd > 0.5 and shaped.rewards[0].tolist() == [0.5, 0.5]
    assert shaped.baseline is not None and shaped.baseline.tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("lengths", [[2], [2, 2]])
def test_returns_that_do_not_vary_are_left_alone(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    assert return_sd(torch.ones(mask.shape), mask).item() == 1


# B8: the penalty for a missing end


def test_field_B8_finish_reason_decides_and_not_the_last_id() -> None:
    """Ended by the end token, by a stop string, and cut off, all with the same last id."""
    rollout = replace(
        make_rollout([3, 2, 2]),
        response_ids=torch.zeros(3, 3, dtype=torch.long),
        finished=torch.tensor([True, True, False]),
        stopped=torch.tensor([False, True, False]),
    )
    shaped = PPO(missing_eos_penalty=1.5).shape(torch.ones(3, 3), rollout, FREE)
    assert shaped.rewards.tolist() == [[1, 1, 1], [1, 1, 0], [1, -0.5, 0]]
    assert PPO().shape(torch.ones(3, 3), rollout, FREE).rewards[2].tolist() == [1, 1, 0]


def test_field_B8_the_penalty_is_not_clipped_with_the_reward() -> None:
    rollout = replace(make_rollout([2]), finished=torch.tensor([False]))
    shaped = PPO(missing_eos_penalty=3.0, reward_clip=1.0).shape(torch.ones(1, 2), rollout, FREE)
    assert shaped.rewards.tolist() == [[1, -2]]


def test_cut_off_and_pay_last_by_hand() -> None:
    mask, finished = mask_of([3, 1, 2, 0]), torch.tensor([True, False, False, False])
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert cut_off(mask, finished).long().tolist() == expected
    paid = pay_last(torch.zeros(4, 3), mask, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert paid.tolist() == [[0, 0, 1], [2, 0, 0], [0, 3, 0], [0, 0, 0]]


# B7: where the score stands


@pytest.mark.parametrize(
    ("ends", "length", "finished"),
    [("by the end token", 4, True), ("by its length", 4, False), ("at once", 1, True)],
)
def test_field_B7_the_score_stands_on_the_last_action(
    ends: str, length: int, finished: bool
) -> None:
    rollout = replace(make_rollout([length], width=6), finished=torch.tensor([finished]))
    judgement = Judgement(scores=torch.tensor([2.5]), evidence=torch.zeros(1, 6))
    rewards = Sparse().token_rewards(rollout, judgement)
    state = {"kl/coef": 0.1}
    shaped = PPO().shape(rewards, rollout, state)
    assert shaped.rewards.nonzero().tolist() == [[0, length - 1]]
    kl = keep(k1(rollout.logp, rollout.ref_logp), rollout.response_mask).sum()
    assert shaped.total.sum().item() == pytest.approx(2.5 - 0.1 * kl.item())
    late = replace(shaped, rewards=rewards.roll(1, dims=1))  # one step behind the end
    first = PPO(lam=1.0).targets(rollout, shaped).returns[0, 0]
    assert first != PPO(lam=1.0).targets(rollout, late).returns[0, 0]

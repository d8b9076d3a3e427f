"""ReMax: the published coefficient, and what token rewards make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from batches import shaped_of
from builders import make_rollout
from tokencredit.algorithms.kl import Controller, KLPenalty
from tokencredit.algorithms.remax import ReMax
from tokencredit.algorithms.shaping import Shaped
from tokencredit.errors import UserError

PUBLISHED = ReMax(gamma=0.99, kl=KLPenalty(coef=0.05, controller=Controller.fixed))
K1 = torch.tensor([[0.1, -0.2, 0.3]])


def shaped(rewards: list[list[float]], baseline: list[float]) -> Shaped:
    rollout = replace(make_rollout([3] * len(rewards)))
    rollout = replace(rollout, logp=rollout.ref_logp + K1)
    state = PUBLISHED.initial_state()
    return PUBLISHED.shape(torch.tensor(rewards), rollout, state, torch.tensor(baseline))


def test_papers_remax_coefficient_by_hand() -> None:
    found = PUBLISHED.targets(make_rollout([3]), shaped([[0.0, 0.0, 2.25]], [0.75]))
    assert found.advantages[0].tolist() == pytest.approx([1.450449, 1.480150, 1.470000], abs=1e-6)


@pytest.mark.parametrize("mutation", ["late discount", "kl to go", "no baseline"])
def test_papers_remax_other_readings_would_be_noticed(mutation: str) -> None:
    right = torch.tensor([1.450449, 1.480150, 1.470000])
    powers = torch.tensor([3.0, 2.0, 1.0])
    cost = 0.05 * K1[0]
    if mutation == "late discount":  # the last action not discounted
        wrong = 0.99 ** (powers - 1) * 1.5 - cost
    elif mutation == "kl to go":
        wrong = 0.99**powers * 1.5 - cost.flip(0).cumsum(0).flip(0)
    else:
        wrong = 0.99**powers * 2.25 - cost
    assert not torch.allclose(wrong, right, atol=1e-3)


@pytest.mark.parametrize(
    ("score", "baseline", "paid"), [(9.0, 1.0, 5.0), (-9.0, 1.0, -5.0), (9.0, 7.0, 2.0)]
)
def test_clipped_after_the_baseline(score: float, baseline: float, paid: float) -> None:
    rewards = torch.tensor([[0.0, 0.0, score]])
    algorithm = ReMax()
    found = algorithm.targets(
        make_rollout([3]), shaped_of(rewards, baseline=torch.tensor([baseline]))
    )
    assert found.advantages[0].tolist() == pytest.approx([paid] * 3)
    free = ReMax(return_clip=None).targets(
        make_rollout([3]), shaped_of(rewards, baseline=torch.tensor([baseline]))
    )
    assert free.advantages[0].tolist() == pytest.approx([score - baseline] * 3)


def test_token_rewards_keep_their_place_and_the_last_one_carries_the_baseline() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 0.0, 0.0]])
    rollout = make_rollout([3, 1])
    given = shaped_of(rewards, baseline=torch.tensor([3.0, 4.0]))
    found = ReMax(gamma=0.5).targets(rollout, given).advantages
    r = [1.0, 2.0, 4.0 - 3.0]
    to_go = [r[0] + 0.5 * (r[1] + 0.5 * r[2]), r[1] + 0.5 * r[2], r[2]]
    assert found[0].tolist() == pytest.approx([0.5 * g for g in to_go])
    assert found[1].tolist() == pytest.approx([0.5 * (1 - 4), 0, 0])
    first = ReMax().targets(rollout, given).advantages[:, 0]
    assert first.tolist() == pytest.approx([7 - 3, 1 - 4])


def test_dense_and_sparse_rewards_agree_at_the_first_token() -> None:
    dense = shaped_of(torch.tensor([[1.0, 2.0, 4.0]]), baseline=torch.tensor([3.0]))
    sparse = shaped_of(torch.tensor([[0.0, 0.0, 7.0]]), baseline=torch.tensor([3.0]))
    found = [ReMax().targets(make_rollout([3]), x).advantages[0] for x in (dense, sparse)]
    assert found[0][0] == found[1][0] and found[0][1] < found[1][1]


def test_greedy_baseline_is_asked_for_and_missed() -> None:
    algorithm = ReMax(batch_size=8, samples_per_prompt=2)
    assert algorithm.responses_beside() == 4 and not ReMax.uses_values
    with pytest.raises(ValueError, match="greedy response"):
        ReMax().targets(make_rollout([2]), shaped_of(torch.ones(1, 2)))


def test_one_step_on_a_rollout() -> None:
    assert (ReMax().epochs, ReMax().minibatches) == (1, 1)


def test_numbers_out_of_range() -> None:
    with pytest.raises(UserError, match=r"algorithm\.return_clip = 0\.0: must"):
        ReMax(return_clip=0.0)
    with pytest.raises(UserError, match=r"algorithm\.reward_clip = 5\.0: would clip"):
        ReMax(reward_clip=5.0)

"""The KL penalty and its controller."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from builders import make_rollout
from tokencredit.algorithms.kl import Controller, Estimator, KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(12, 0.200064), (3, 0.199936), (6.6, 0.200032), (6, 0.2), (-300, 0.199936), (7.2, 0.200064)],
)
def test_papers_S5_adaptive_coefficient_by_hand(kl: float, expected: float) -> None:
    assert KLPenalty().next_coef(0.2, kl, 16) == pytest.approx(expected, abs=1e-12)


def test_papers_S5_151_saturated_steps_change_little() -> None:
    coef = 0.2
    for _ in range(151):
        coef = KLPenalty().next_coef(coef, 1e6, 16)
    assert coef == pytest.approx(0.2 * 1.00032**151) and 0.2098 < coef < 0.2100


def test_field_B24_step_response_is_proportional_and_bounded() -> None:
    penalty = KLPenalty(coef=1.0, target=2.0, horizon=100.0)
    assert penalty.next_coef(1.0, 2.2, 10) == pytest.approx(1 + 0.1 * 10 / 100)
    assert penalty.next_coef(1.0, 1.8, 10) == pytest.approx(1 - 0.1 * 10 / 100)
    assert penalty.next_coef(1.0, 9.0, 10) == pytest.approx(1 + 0.2 * 10 / 100)
    assert penalty.next_coef(1.0, 9.0, 20) == pytest.approx(1 + 0.2 * 20 / 100)
    assert KLPenalty(controller=Controller.fixed).next_coef(0.2, 99.0, 16) == 0.2


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
def test_field_B24_target_must_be_positive(target: float) -> None:
    with pytest.raises(UserError, match=r"algorithm\.kl\.target = .*controller=fixed"):
        KLPenalty(target=target)


def test_field_B24_a_fixed_coefficient_needs_no_target() -> None:
    assert KLPenalty(target=0.0, controller=Controller.fixed).coef == 0.2


@pytest.mark.parametrize(
    ("field", "value"),
    [("coef", -0.1), ("horizon", 0.0), ("horizon", -5.0), ("coef", float("nan"))],
)
def test_other_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.kl\.{field} = "):
        KLPenalty(**{field: value})


@pytest.mark.parametrize("poison", [0.0, float("nan"), float("inf"), 1e9])
def test_field_B12_identical_models_cost_nothing(poison: float) -> None:
    rollout = make_rollout([3, 1])
    mask = rollout.response_mask
    same = torch.where(mask, rollout.logp, poison)
    rollout = replace(rollout, logp=same, ref_logp=same.clone())
    for estimator in Estimator:
        assert torch.equal(
            KLPenalty(estimator=estimator).per_token(rollout), torch.zeros(mask.shape)
        )


def test_penalty_by_hand() -> None:
    rollout = replace(
        make_rollout([2, 1]),
        logp=torch.tensor([[-1.0, -2.0], [-3.0, 7.0]]),
        ref_logp=torch.tensor([[-2.0, -1.0], [-3.0, -7.0]]),
    )
    assert KLPenalty().per_token(rollout).tolist() == [[1, -1], [0, 0]]
    k3 = KLPenalty(estimator=Estimator.k3).per_token(rollout)
    assert k3[0].tolist() == pytest.approx([math.exp(-1), math.e - 2])
    rewards = torch.tensor([[0.5, 9.0], [-9.0, 5.0]])
    shaped = PPO(reward_clip=4.0).shape(rewards, rollout, 0.1)
    assert shaped[0].tolist() == pytest.approx([0.5 - 0.1, 4 + 0.1])
    assert shaped[1].tolist() == [-4, 0]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_papers_A7_rewards_are_added_where_tokens_are_and_stay_float32(poison: float) -> None:
    rollout = make_rollout([3, 1])
    mask = rollout.response_mask
    rewards = torch.where(mask, torch.tensor(0.1, dtype=torch.float64), poison)
    shaped = PPO(kl=KLPenalty(coef=0.0)).shape(rewards, rollout, 0.0)
    assert shaped.dtype == torch.float32
    assert torch.equal(shaped, torch.where(mask, torch.tensor(0.1), 0.0))

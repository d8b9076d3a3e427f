"""KL estimators, the penalty, and the controllers of its coefficient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import make_rollout
from tokencredit.algorithms.kl import Controller, Estimator, KLPenalty, doubled_or_halved
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError
from tokencredit.rollout import Rollout


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


def test_papers_S5_an_unclipped_error_would_be_noticed() -> None:
    wrong = 0.2 * (1 + (12 / 6 - 1) * 16 / 10_000)
    assert abs(KLPenalty().next_coef(0.2, 12, 16) - wrong) > 1e-4


def test_field_B24_step_response_is_proportional_and_bounded() -> None:
    penalty = KLPenalty(coef=1.0, target=2.0, horizon=100.0)
    assert penalty.next_coef(1.0, 2.2, 10) == pytest.approx(1 + 0.1 * 10 / 100)
    assert penalty.next_coef(1.0, 1.8, 10) == pytest.approx(1 - 0.1 * 10 / 100)
    assert penalty.next_coef(1.0, 9.0, 10) == pytest.approx(1 + 0.2 * 10 / 100)
    assert penalty.next_coef(1.0, 9.0, 20) == pytest.approx(1 + 0.2 * 20 / 100)
    assert KLPenalty(controller=Controller.fixed).next_coef(0.2, 99.0, 16) == 0.2


DELTA = 0.01


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.015, 2.0),
        (0.0149, 1.0),
        (DELTA / 1.5, 0.5),
        (0.0067, 1.0),
        (1.0, 2.0),
        (0.0, 0.5),
        (-3.0, 0.5),
    ],
)
def test_papers_slides_doubling_and_halving_include_their_bounds(
    kl: float, expected: float
) -> None:
    assert doubled_or_halved(1.0, kl, DELTA) == expected
    penalty = KLPenalty(controller=Controller.doubling, target=DELTA)
    for responses in (1, 1000):  # unlike the proportional one, whatever the batch
        assert penalty.next_coef(1.0, kl, responses) == expected


def test_field_B35_the_coefficient_is_state() -> None:
    algorithm = PPO(kl=KLPenalty(coef=0.5, controller=Controller.doubling, target=1.0))
    state = algorithm.initial_state()
    assert state == {"kl/coef": 0.5}
    assert algorithm.next_state(state, {"kl/k1": 2.0}, 16) == {"kl/coef": 1.0}
    assert state == {"kl/coef": 0.5}


@pytest.mark.parametrize("controller", [Controller.adaptive, Controller.doubling])
@pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
def test_field_B24_target_must_be_positive(target: float, controller: Controller) -> None:
    with pytest.raises(UserError, match=r"algorithm\.kl\.target = .*controller=fixed"):
        KLPenalty(target=target, controller=controller)


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
    exact = torch.where(mask, 0.0, poison)
    rollout = replace(rollout, logp=same, ref_logp=same.clone(), full_kl=exact)
    for estimator in Estimator:
        found = KLPenalty(estimator=estimator).per_token(rollout)
        assert torch.equal(found.abs(), torch.zeros(mask.shape)), estimator


def by_hand() -> Rollout:
    return replace(
        make_rollout([2, 1]),
        logp=torch.tensor([[-1.0, -2.0], [-3.0, 7.0]]),
        ref_logp=torch.tensor([[-2.0, -1.0], [-3.0, -7.0]]),
        full_kl=torch.tensor([[0.25, 0.5], [0.0, 9.0]]),
    )


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (Estimator.k1, [1, -1]),
        (Estimator.k3, [math.exp(-1), math.e - 2]),
        (Estimator.abs, [1, 1]),
        (Estimator.mse, [0.5, 0.5]),
        (Estimator.full, [0.25, 0.5]),
    ],
)
def test_estimators_by_hand(estimator: Estimator, expected: list[float]) -> None:
    found = KLPenalty(estimator=estimator).per_token(by_hand())
    assert found[0].tolist() == pytest.approx(expected)
    assert found[1].tolist() == [0, 0]


def test_full_kl_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match=r"algorithm\.kl\.estimator = 'full'.*use k1"):
        KLPenalty(estimator=Estimator.full).per_token(make_rollout([2]))
    assert KLPenalty(estimator=Estimator.full).reads_full and not KLPenalty().reads_full


def mean_over_tokens(logits: Tensor, ref: Tensor, estimator: Estimator) -> Tensor:
    """The exact mean of an estimate over a vocabulary, each id being one response of one token."""
    logp, ref_logp = logits.log_softmax(0), ref.log_softmax(0)
    exact = (logp.exp() * (logp - ref_logp)).sum()
    rollout = replace(
        make_rollout([1] * len(logits)),
        logp=logp[:, None],
        ref_logp=ref_logp[:, None],
        full_kl=exact.expand(len(logits), 1),
    )
    found = KLPenalty(estimator=estimator).per_token(rollout)[:, 0]
    return (logp.exp() * found).sum()


@pytest.mark.parametrize("seed", range(4))
def test_papers_S6_which_estimates_are_unbiased(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, ref = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    exact = mean_over_tokens(logits, ref, Estimator.full)
    assert exact > 0.01
    for estimator in (Estimator.k1, Estimator.k3):
        assert torch.allclose(mean_over_tokens(logits, ref, estimator), exact)
    for estimator in (Estimator.abs, Estimator.mse):
        assert not torch.allclose(mean_over_tokens(logits, ref, estimator), exact, atol=1e-3)
    near = logits + 1e-3 * ref
    assert torch.allclose(
        mean_over_tokens(near, logits, Estimator.mse),
        mean_over_tokens(near, logits, Estimator.full),
        rtol=1e-2,
    )


def test_penalty_is_the_coefficient_times_the_estimate() -> None:
    shaped = PPO(reward_clip=4.0).shape(
        torch.tensor([[0.5, 9.0], [-9.0, 5.0]]), by_hand(), {"kl/coef": 0.1}
    )
    assert shaped.penalty[0].tolist() == pytest.approx([0.1, -0.1])
    assert shaped.total[0].tolist() == pytest.approx([0.5 - 0.1, 4 + 0.1])
    assert shaped.total[1].tolist() == [-4, 0]

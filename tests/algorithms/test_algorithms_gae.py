"""Generalised advantage estimation against published numbers and a closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from batches import shaped_of
from builders import make_rollout, mask_of
from tokencredit.algorithms.advantages import Whiten, gae, to_go
from tokencredit.algorithms.ppo import PPO
from tokencredit.ops import keep, whiten

REWARDS = torch.tensor([[0.0, 0.0, 1.0]])
VALUES = torch.tensor([[0.5, 0.6, 0.7]])
ALL = mask_of([3])


def test_papers_S1_gae_by_hand() -> None:
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.46575, 0.385, 0.3])
    assert returns[0].tolist() == pytest.approx([0.96575, 0.985, 1.0])


def test_papers_S1_whitened() -> None:
    advantages, _ = gae(REWARDS, VALUES, ALL, gamma=1.0, lam=0.95)
    trl = [0.9913436, 0.0170921, -1.0084358]
    assert whiten(advantages, ALL)[0].tolist() == pytest.approx(trl, abs=1e-5)
    biased = [1.2141439, 0.0209335, -1.2350775]
    assert whiten(advantages, ALL, unbiased=False)[0].tolist() == pytest.approx(biased, abs=1e-5)


def closed_form(
    rewards: Tensor, values: Tensor, length: int, gamma: float, lam: float
) -> list[float]:
    """A_t = Σ_u (γλ)^(u−t) (r_u + γ V_(u+1) − V_u), V_n = 0: O(T²), in double precision."""
    r, v = rewards[:length].double().tolist(), [*values[:length].double().tolist(), 0.0]
    deltas = [r[u] + gamma * v[u + 1] - v[u] for u in range(length)]
    return [
        sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, length)) for t in range(length)
    ]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_gae_equals_the_closed_form(
    lengths: list[int], gamma: float, lam: float, seed: int
) -> None:
    rollout = make_rollout(lengths, width=10, seed=seed)
    rewards = torch.randn(rollout.values.shape, generator=torch.Generator().manual_seed(seed))
    advantages, returns = gae(rewards, rollout.values, rollout.response_mask, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        expected = closed_form(rewards[row], rollout.values[row], length, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-4)
        assert (advantages[row, length:] == 0).all() and (returns[row, length:] == 0).all()
    assert torch.allclose(returns, keep(advantages + rollout.values, rollout.response_mask))


def test_papers_S2_lambda_1_is_monte_carlo_and_lambda_0_is_one_step() -> None:
    rollout = make_rollout([4, 2, 1])
    mask, values = rollout.response_mask, rollout.values
    rewards = keep(torch.randn(mask.shape, generator=torch.Generator().manual_seed(5)), mask)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages, keep(to_go - values, mask), atol=1e-6)
    assert torch.allclose(returns, keep(to_go, mask), atol=1e-6)
    following = torch.nn.functional.pad(values, (0, 1))[:, 1:]
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=0.0)
    assert torch.allclose(advantages, keep(rewards + following - values, mask), atol=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
def test_field_B13_poison_behind_the_end(poison: float) -> None:
    rollout = make_rollout([4, 2, 1], width=6)
    mask = rollout.response_mask
    rewards = keep(torch.randn(mask.shape, generator=torch.Generator().manual_seed(5)), mask)
    clean = gae(rewards, rollout.values, mask, gamma=0.9, lam=0.95)
    dirty = gae(
        torch.where(mask, rewards, poison),
        torch.where(mask, rollout.values, poison),
        mask,
        gamma=0.9,
        lam=0.95,
    )
    assert torch.equal(clean[0], dirty[0]) and torch.equal(clean[1], dirty[1])


@pytest.mark.parametrize("extra", [1, 7])
def test_papers_S3_padding_changes_no_target(extra: int) -> None:
    narrow, wide = make_rollout([4, 2, 1]), make_rollout([4, 2, 1], width=4 + extra)
    assert torch.equal(narrow.values, wide.values[:, :4])
    targets = [
        PPO(lam=0.9).targets(rollout, shaped_of(rollout.values * 2 - 1))
        for rollout in (narrow, wide)
    ]
    assert torch.allclose(targets[0].advantages, targets[1].advantages[:, :4], atol=1e-6)
    assert torch.allclose(targets[0].returns, targets[1].returns[:, :4], atol=1e-6)


def test_papers_S3_an_unmasked_whitening_would_see_padding() -> None:
    narrow, wide = make_rollout([4, 2, 1]), make_rollout([4, 2, 1], width=9)
    everywhere = [torch.ones_like(r.response_mask) for r in (narrow, wide)]
    first, second = (
        whiten(r.values, mask) for r, mask in zip((narrow, wide), everywhere, strict=True)
    )
    assert not torch.allclose(first, second[:, :4], atol=1e-2)


@pytest.mark.parametrize("kind", [Whiten.unbiased, Whiten.biased])
def test_whitening_comes_after_the_returns(kind: Whiten) -> None:
    rollout = make_rollout([4, 2, 1])
    shaped = shaped_of(rollout.values * 2 - 1)
    plain, white = (PPO(whiten=w).targets(rollout, shaped) for w in (Whiten.none, kind))
    assert torch.equal(plain.returns, white.returns)
    expected = whiten(plain.advantages, rollout.response_mask, unbiased=kind is Whiten.unbiased)
    assert torch.allclose(white.advantages, expected)
    assert not torch.allclose(white.advantages, plain.advantages)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_rewards_to_go_by_a_loop(gamma: float) -> None:
    mask = mask_of([3, 1])
    rewards = torch.tensor([[1.0, -2.0, 4.0], [5.0, 9.0, 9.0]])
    by_hand = [[1 + gamma * (-2 + gamma * 4), -2 + gamma * 4, 4.0], [5.0, 0.0, 0.0]]
    found = to_go(rewards, mask, gamma)
    for row, expected in zip(found.tolist(), by_hand, strict=True):
        assert row == pytest.approx(expected)


def test_field_B1_a_sparse_vector_and_a_scalar_give_the_same_advantages() -> None:
    rollout = make_rollout([4, 2, 1])
    scalar = torch.tensor([1.5, -2.0, 0.3])
    vector = torch.zeros(rollout.response_mask.shape)
    for row, length in enumerate([4, 2, 1]):
        vector[row, length - 1] = scalar[row]
    advantages, _ = gae(vector, rollout.values, rollout.response_mask, gamma=1.0, lam=1.0)
    expected = keep(scalar[:, None] - rollout.values, rollout.response_mask)
    assert torch.allclose(advantages, expected, atol=1e-6)

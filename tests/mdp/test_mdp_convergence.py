"""The gradient of sampled responses comes to the exact one as 1/√N, with the exact constant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from token_mdp import TabularPolicy, TokenMDP
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.rollout import Rollout

CASES = [TokenMDP(), TokenMDP(eos=0)]
every_mdp = pytest.mark.parametrize("mdp", CASES, ids=lambda m: f"eos_{m.eos}")
PLAIN = PPO(lam=1.0, whiten=Whiten.none, value_coef=0.0, kl=KLPenalty(coef=0.2))
REPEATS = 40


def policy_of(mdp: TokenMDP) -> TabularPolicy:
    return TabularPolicy(mdp, mdp.random(1), mdp.random(3)[:, 0], mdp.random(2))


def mean_gradient(policy: TabularPolicy, rewards: Tensor, rows: Tensor) -> Tensor:
    """(S, V) of PPO's loss at ratio 1, per response, over the chosen rows of all responses."""
    rollout: Rollout = policy.roll_out()[rows]
    state = PLAIN.initial_state()
    targets = PLAIN.targets(rollout, PLAIN.shape(rewards[rows], rollout, state))
    loss = PLAIN.loss(policy(rollout), rollout, targets, state).total / len(rows)
    (gradient,) = torch.autograd.grad(loss, policy.logits)
    return gradient


def exact_gradient(policy: TabularPolicy, rewards: Tensor) -> Tensor:
    objective = policy.mdp.regularised(policy.logits, policy.reference, rewards, 0.2)
    (gradient,) = torch.autograd.grad(-objective, policy.logits)
    return gradient


def exact_variance(policy: TabularPolicy, rewards: Tensor) -> float:
    """E ‖g − E g‖² of the gradient of one response."""
    p, exact = policy.mdp.probability(policy.logits).detach(), exact_gradient(policy, rewards)
    singles = [mean_gradient(policy, rewards, torch.tensor([row])) for row in range(len(p))]
    return sum(float(q * (g - exact).square().sum()) for q, g in zip(p, singles, strict=True))


def square_error(policy: TabularPolicy, rewards: Tensor, count: int, shift: int = 0) -> float:
    """Mean over repetitions of ‖sampled − exact‖² for `count` responses."""
    prompts, exact = torch.zeros(count, dtype=torch.long), exact_gradient(policy, rewards)
    seen = rewards.roll(shift, dims=1)
    drawn = (policy.mdp.sample(policy.logits, prompts, "g", count, n) for n in range(REPEATS))
    errors = [mean_gradient(policy, seen, rows) - exact for rows in drawn]
    return sum(float(error.square().sum()) for error in errors) / REPEATS


@every_mdp
def test_error_of_the_sampled_gradient_shrinks_as_one_over_root_n(mdp: TokenMDP) -> None:
    """N E ‖error‖² is the variance of one response for every N. The mean of 40 squares of about
    ten directions each has a relative spread near 0.1."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    variance = exact_variance(policy, rewards)
    for count in (16, 256, 4096):
        assert count * square_error(policy, rewards, count) == pytest.approx(variance, rel=0.35)
    wrong = square_error(policy, rewards, 4096, shift=1)  # a reward one late does not converge
    assert 4096 * wrong > 20 * variance


@every_mdp
def test_exact_values_lower_the_variance_and_leave_the_mean(mdp: TokenMDP) -> None:
    wrong, rewards = policy_of(mdp), mdp.token_rewards(4)
    flat = TokenMDP(eos=mdp.eos)
    k1 = (mdp.logp(wrong.logits) - mdp.logp(wrong.reference)).detach()
    exact = TabularPolicy(
        mdp, wrong.logits, flat.values(wrong.logits, rewards - 0.2 * k1).detach(), wrong.reference
    )
    assert exact_variance(exact, rewards) < 0.8 * exact_variance(wrong, rewards)
    for policy in (exact, wrong):
        p = mdp.probability(policy.logits).detach()
        rows = range(len(p))
        singles = [mean_gradient(policy, rewards, torch.tensor([row])) for row in rows]
        mean = sum(q * g for q, g in zip(p, singles, strict=True))
        assert torch.allclose(mean, exact_gradient(policy, rewards))

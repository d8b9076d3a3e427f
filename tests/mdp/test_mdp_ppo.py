"""Gradients of PPO's loss, averaged over all responses, against the exact policy gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mdp_gradients import (
    cosine,
    every_mdp,
    expected_loss_gradient,
    loss_gradient,
    policy_of,
    return_slope,
    slope,
    targets_of,
)
from token_mdp import TabularPolicy, TokenMDP
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.kl import Estimator, KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.ops import keep

PLAIN = PPO(lam=1.0, whiten=Whiten.none, value_coef=0.0, kl=KLPenalty(coef=0.0))


@every_mdp
def test_papers_S4_first_gradient_is_the_policy_gradient(mdp: TokenMDP) -> None:
    """With λ = 1 and whatever the value function says."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    expected = return_slope(policy, rewards)
    assert torch.allclose(loss_gradient(PLAIN, policy, rewards), -expected)
    assert expected.norm() > 0.1


@every_mdp
@pytest.mark.parametrize("lam", [0.95, 0.5, 0.0])
def test_smaller_lambda_needs_exact_values(mdp: TokenMDP, lam: float) -> None:
    wrong, rewards = policy_of(mdp), mdp.token_rewards(4)
    exact = policy_of(mdp, mdp.values(wrong.logits, rewards).detach())
    algorithm, expected = replace(PLAIN, lam=lam), return_slope(exact, rewards)
    assert torch.allclose(loss_gradient(algorithm, exact, rewards), -expected)
    assert not torch.allclose(loss_gradient(algorithm, wrong, rewards), -expected, atol=1e-4)


@pytest.mark.parametrize("eos", [None, 0])
def test_a_discount_in_the_advantages_is_not_the_gradient_of_the_discounted_return(
    eos: int | None,
) -> None:
    """∇J has a factor γ^t that no published implementation keeps; without it later tokens count more.

    What the loss does follow is Σ_t A_γ(s_t, a_t) ∇ log π over the states as they are visited.
    """
    mdp = TokenMDP(eos=eos, gamma=0.9)
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    found = loss_gradient(replace(PLAIN, gamma=0.9), policy, rewards)
    with torch.no_grad():
        advantages = mdp.advantages(policy.logits, rewards)[mdp.states, mdp.ids]
        weight = mdp.probability(policy.logits)[:, None] * keep(advantages, mdp.mask)
    logp = mdp.logp(policy.logits)
    assert torch.allclose(found, -slope((weight * logp).sum(), policy))
    true = return_slope(policy, rewards)
    assert not torch.allclose(found, -true, atol=1e-2)
    kept = 0.9 ** torch.arange(3)
    assert torch.allclose(slope((kept * weight * mdp.logp(policy.logits)).sum(), policy), true)


@every_mdp
def test_penalty_k1_gives_the_gradient_of_the_regularised_objective(mdp: TokenMDP) -> None:
    policy, rewards, coef = policy_of(mdp), mdp.token_rewards(4), 0.7
    algorithm = replace(PLAIN, kl=KLPenalty(coef=coef))
    objective = mdp.regularised(policy.logits, policy.reference, rewards, coef)
    expected = slope(objective, policy)
    assert torch.allclose(loss_gradient(algorithm, policy, rewards), -expected)
    assert not torch.allclose(return_slope(policy, rewards), expected, atol=1e-2)


@every_mdp
def test_penalty_full_in_the_reward_lacks_what_the_own_token_does(mdp: TokenMDP) -> None:
    """A penalty that is the same for every token of a state moves that state's logits only by
    what follows; the slope of the state's own divergence is missing."""
    policy, rewards, coef = policy_of(mdp), mdp.token_rewards(4), 0.7
    algorithm = replace(PLAIN, kl=KLPenalty(coef=coef, estimator=Estimator("full")))
    expected = slope(mdp.regularised(policy.logits, policy.reference, rewards, coef), policy)
    own = mdp.token_kl(policy.logits, policy.reference)[mdp.states]
    weight = mdp.probability(policy.logits).detach()[:, None] * mdp.mask
    missing = slope(coef * (weight * own).sum(), policy)
    found = loss_gradient(algorithm, policy, rewards)
    assert torch.allclose(found, -(expected + missing))
    assert missing.norm() > 1e-2


@every_mdp
@pytest.mark.parametrize("estimator", ["k3", "abs", "mse"])
def test_other_penalties_in_the_reward_pull_elsewhere(mdp: TokenMDP, estimator: str) -> None:
    """k3 has the right mean, yet as a reward not the right gradient."""
    policy, rewards, coef = policy_of(mdp), mdp.token_rewards(4), 0.7
    algorithm = replace(PLAIN, kl=KLPenalty(coef=coef, estimator=Estimator(estimator)))
    expected = slope(mdp.regularised(policy.logits, policy.reference, rewards, coef), policy)
    assert not torch.allclose(loss_gradient(algorithm, policy, rewards), -expected, atol=1e-2)


@every_mdp
def test_optimum_is_where_the_gradient_ends(mdp: TokenMDP) -> None:
    """At π* ∝ π_ref exp(score / c) PPO with the penalty k1 stands still."""
    coef, reference = 0.7, mdp.random(2)
    scores = mdp.token_rewards(4).sum(dim=1)
    best = mdp.optimum(reference, scores, coef)
    policy = TabularPolicy(mdp, best, mdp.random(3)[:, 0], reference)
    algorithm = replace(PLAIN, kl=KLPenalty(coef=coef))
    rewards = mdp.last_reward(scores)
    assert loss_gradient(algorithm, policy, rewards).abs().max() < 1e-6
    late = rewards.roll(1, dims=1)
    assert loss_gradient(algorithm, policy, late).abs().max() > 1e-2


@every_mdp
def test_whitening_keeps_the_direction(mdp: TokenMDP) -> None:
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    found = loss_gradient(replace(PLAIN, whiten=Whiten.unbiased), policy, rewards)
    expected = -return_slope(policy, rewards)
    assert cosine(found, expected) == pytest.approx(1)
    assert not torch.allclose(found, expected, atol=1e-2)


@every_mdp
def test_entropy_bonus_adds_the_slope_of_each_visited_states_entropy(mdp: TokenMDP) -> None:
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    plain = loss_gradient(PLAIN, policy, rewards)
    found = loss_gradient(replace(PLAIN, entropy_coef=0.3), policy, rewards)
    logp = policy.logits.log_softmax(dim=1)
    entropy = -(logp.exp() * logp).sum(dim=1)[mdp.states]
    weight = mdp.probability(policy.logits).detach()[:, None] * mdp.mask
    assert torch.allclose(found - plain, -slope(0.3 * (weight * entropy).sum(), policy))


@every_mdp
@pytest.mark.parametrize("lam", [1.0, 0.95])
def test_value_loss_pulls_to_the_exact_values(mdp: TokenMDP, lam: float) -> None:
    """Its slope is the state's probability times the error, so it ends at V; and λ only changes
    the way there."""
    wrong, rewards = policy_of(mdp), mdp.token_rewards(4)
    exact = mdp.values(wrong.logits, rewards).detach()
    weight = mdp.probability(wrong.logits).detach()

    def value_slope(policy: TabularPolicy, rewards: Tensor, lam: float) -> Tensor:
        algorithm, rollout = replace(PLAIN, value_coef=1.0, lam=lam), policy.roll_out()
        targets = targets_of(algorithm, rewards, rollout)
        output = policy(rollout)
        total = algorithm.loss(output, rollout, targets, algorithm.initial_state()).total
        (slopes,) = torch.autograd.grad(total, output.values)
        out = torch.zeros_like(policy.state_values)
        return out.index_add(0, mdp.states.flatten(), (weight[:, None] * slopes).flatten()).detach()

    visits = torch.zeros_like(exact).index_add(
        0, mdp.states.flatten(), (weight[:, None] * mdp.mask).flatten()
    )
    assert value_slope(policy_of(mdp, exact), rewards, lam).abs().max() < 1e-12
    found = value_slope(wrong, rewards, 1.0)
    assert torch.allclose(found, visits * (wrong.state_values - exact))
    late = rewards.roll(1, dims=1)
    assert value_slope(policy_of(mdp, exact), late, lam).abs().max() > 1e-2


@every_mdp
@pytest.mark.parametrize(
    "mutation", ["late reward", "shifted mask", "stale ratio", "shuffled rows", "sign"]
)
def test_papers_S4_the_identity_notices(mdp: TokenMDP, mutation: str) -> None:
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    expected = return_slope(policy, rewards)
    rollout = policy.roll_out()
    if mutation == "late reward":
        rewards = rewards.roll(1, dims=1)
    targets = targets_of(PLAIN, rewards, rollout)
    advantages = targets.advantages
    if mutation == "shifted mask":
        rollout = replace(rollout, response_mask=mdp.mask & torch.tensor([False, True, True]))
    elif mutation == "stale ratio":
        rollout = replace(rollout, logp=mdp.logp(policy.logits.detach() + mdp.random(5, 0.3)))
    elif mutation == "shuffled rows":
        advantages = advantages.roll(1, dims=0)
    elif mutation == "sign":
        advantages = -advantages
    targets = replace(targets, advantages=advantages)
    found = expected_loss_gradient(
        PLAIN, policy, rollout, targets, mdp.probability(policy.logits).detach()
    )
    assert not torch.allclose(found, -expected, atol=1e-2)


@every_mdp
def test_later_minibatches_follow_the_clipped_surrogate(mdp: TokenMDP) -> None:
    """Away from the old policy: E_old Σ_t min(ρ A, clip(ρ) A), differentiated in another way."""
    old, rewards = policy_of(mdp), mdp.token_rewards(4)
    rollout = old.roll_out()
    targets = targets_of(PLAIN, rewards, rollout)
    weight = mdp.probability(old.logits).detach()
    policy = TabularPolicy(mdp, old.logits.detach() + mdp.random(6, 0.3), old.state_values)
    found = expected_loss_gradient(PLAIN, policy, rollout, targets, weight)
    ratio = (mdp.logp(policy.logits) - rollout.logp).exp()
    good = targets.advantages >= 0
    binds = torch.where(good, ratio > 1.2, ratio < 0.8) & mdp.mask
    free = keep(ratio * targets.advantages, mdp.mask & ~binds)
    assert torch.allclose(found, -slope((weight[:, None] * free).sum(), policy))
    assert 0.05 < binds.sum() / mdp.mask.sum() < 0.95

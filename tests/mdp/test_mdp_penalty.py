"""PPO with a penalty on the distance from the old policy, against its exact surrogate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mdp_gradients import (
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
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.ppo_penalty import Direction, Penalty, PPOPenalty
from tokencredit.rollout import Rollout

B = 0.8
PLAIN = PPOPenalty(
    lam=1.0,
    whiten=Whiten.none,
    value_coef=0.0,
    kl=KLPenalty(coef=0.0),
    penalty=Penalty(coef=B),
)
both_directions = pytest.mark.parametrize("direction", list(Direction))


def with_direction(direction: Direction) -> PPOPenalty:
    return replace(PLAIN, penalty=replace(PLAIN.penalty, direction=direction))


def visits(policy: TabularPolicy) -> Tensor:
    """(S,) how often a response passes each state."""
    mdp = policy.mdp
    weight = (mdp.probability(policy.logits).detach()[:, None] * mdp.mask).flatten()
    empty = torch.zeros(len(policy.logits), dtype=weight.dtype)
    return empty.index_add(0, mdp.states.flatten(), weight)


def distance(direction: Direction, new: TabularPolicy, old: TabularPolicy) -> Tensor:
    """(S,) the exact KL divergence of the next token in each state."""
    if direction is Direction.new_old:
        return new.mdp.token_kl(new.logits, old.logits.detach())
    return new.mdp.token_kl(old.logits.detach(), new.logits)


def moved(old: TabularPolicy, seed: int = 6) -> TabularPolicy:
    """A policy beside the old one, far enough for ratios of 0.5 and 2."""
    return TabularPolicy(old.mdp, old.logits.detach() + old.mdp.random(seed, 0.4), old.state_values)


def surrogate_gradient(
    algorithm: PPOPenalty, policy: TabularPolicy, old: TabularPolicy, rewards: Tensor
) -> Tensor:
    """E_old ∇ loss of `policy`."""
    rollout = old.roll_out()
    targets = targets_of(algorithm, rewards, rollout)
    weights = old.mdp.probability(old.logits).detach()
    return expected_loss_gradient(algorithm, policy, rollout, targets, weights)


@every_mdp
@both_directions
def test_first_gradient_is_the_policy_gradient(mdp: TokenMDP, direction: Direction) -> None:
    """The penalty has no slope where it is 0."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    found = loss_gradient(with_direction(direction), policy, rewards)
    assert torch.allclose(found, -return_slope(policy, rewards))


@every_mdp
@both_directions
def test_later_gradients_are_those_of_the_penalised_surrogate(
    mdp: TokenMDP, direction: Direction
) -> None:
    """E_s Σ_a π A − b KL over the states of the old policy, in terms of tables."""
    old, rewards = policy_of(mdp), mdp.token_rewards(4)
    policy = moved(old)
    advantages = mdp.action_values(old.logits, rewards).detach() - old.state_values[:, None]
    gain = (policy.logits.softmax(dim=1) * advantages).sum(dim=1)
    exact = (visits(old) * (gain - B * distance(direction, policy, old))).sum()
    found = surrogate_gradient(with_direction(direction), policy, old, rewards)
    assert torch.allclose(found, -slope(exact, policy))
    other = next(d for d in Direction if d is not direction)
    swapped = surrogate_gradient(with_direction(other), policy, old, rewards)
    assert not torch.allclose(found, swapped, atol=1e-3)


@every_mdp
def test_surrogate_ends_at_its_closed_form(mdp: TokenMDP) -> None:
    """Towards KL(π ‖ π_old) the best next policy is π_old exp(A / b) in every state."""
    old, rewards = policy_of(mdp), mdp.token_rewards(4)
    advantages = mdp.advantages(old.logits, rewards).detach()
    best = TabularPolicy(mdp, old.logits.detach() + advantages / B, old.state_values)
    assert surrogate_gradient(PLAIN, best, old, rewards).abs().max() < 1e-12
    twice = replace(PLAIN, penalty=Penalty(coef=2 * B))
    assert surrogate_gradient(twice, best, old, rewards).abs().max() > 1e-2
    late = rewards.roll(1, dims=1)
    assert surrogate_gradient(PLAIN, best, old, late).abs().max() > 1e-2


@every_mdp
@both_directions
def test_estimate_of_the_distance_is_exact_in_the_mean_and_never_negative(
    mdp: TokenMDP, direction: Direction
) -> None:
    old = policy_of(mdp)
    policy = moved(old)
    estimates = direction.per_token(policy(old.roll_out()).logp - old.roll_out().logp)
    assert estimates[mdp.mask].min() >= 0
    plain = TokenMDP(eos=mdp.eos, gamma=0.0, prompts=mdp.prompts)
    exact = torch.where(visits(old) > 0, distance(direction, policy, old), 0.0)
    assert torch.allclose(plain.values(old.logits, estimates), exact)
    assert exact.max() > 0.05
    other = next(d for d in Direction if d is not direction)
    swapped = torch.where(visits(old) > 0, distance(other, policy, old), 0.0)
    assert not torch.allclose(exact, swapped, atol=1e-3)


def final_kl(algorithm: PPOPenalty, policy: TabularPolicy, old: TabularPolicy) -> float:
    """The mean KL of a token after the step, by the algorithm's own account."""
    rollout: Rollout = old.roll_out()
    weights = old.mdp.probability(old.logits).detach()
    sums = [
        algorithm.final_kl(policy(rollout[row]), rollout[row])["penalty/final_kl"]
        for row in torch.arange(len(rollout)).split(1)
    ]
    tokens = (weights * rollout.lengths).sum()
    return float((torch.stack(sums) * weights).sum() / tokens)


@pytest.mark.parametrize(("coef", "rests"), [(0.01, False), (200.0, True), (300.0, False)])
def test_slides_algorithm_4_controller_brings_the_step_to_its_target(
    coef: float, rests: bool
) -> None:
    """Each step goes to the surrogate's exact optimum; b is doubled or halved until KL fits.

    KL goes with 1 / b², so by fours, and the band where b rests spans 1.5² = 2.25: from some starts
    b comes to rest, from others it goes to and fro over the band, within 4 / 1.5 of the target.
    """
    mdp = TokenMDP(eos=0)
    old, rewards, target = policy_of(mdp), mdp.token_rewards(4), 0.01
    algorithm = replace(PLAIN, penalty=Penalty(coef=coef, target=target))
    advantages = mdp.advantages(old.logits, rewards).detach()
    state, kls = algorithm.initial_state(), []
    for _ in range(20):
        shifted = old.logits.detach() + advantages / state["penalty/coef"]
        policy = TabularPolicy(mdp, shifted, old.state_values)
        exact = (visits(old) * distance(Direction.new_old, policy, old)).sum() / visits(old).sum()
        kls.append(final_kl(algorithm, policy, old))
        assert kls[-1] == pytest.approx(exact.item())
        state = algorithm.next_state(state, {"kl/k1": 0.0, "penalty/final_kl": kls[-1]}, 16)
    assert not target / 4 < kls[0] < 4 * target
    assert all(1.5 / 4 * target < kl < 4 / 1.5 * target for kl in kls[-4:])
    assert (kls[-1] == kls[-2]) is rests
    assert (target / 1.5 < kls[-1] < 1.5 * target) is rests

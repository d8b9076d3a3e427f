"""Gradients of REINFORCE, RLOO, and GRPO, averaged over all responses, against exact ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mdp_gradients import (
    cosine,
    every_mdp,
    expected_loss_gradient,
    group_gradient,
    loss_gradient,
    policy_of,
    return_slope,
    slope,
    targets_of,
)
from token_mdp import TabularPolicy, TokenMDP
from tokencredit.algorithms.advantages import GroupBaseline
from tokencredit.algorithms.grpo import GRPO
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.losses import Aggregation
from tokencredit.algorithms.reinforce import RLOO, Baseline, Reinforce
from tokencredit.ops import keep

FREE = KLPenalty(coef=0.0)
REINFORCE = Reinforce(kl=FREE, baseline=Baseline.none)
PLAIN_RLOO = RLOO(kl=FREE)
PLAIN_GRPO = GRPO(divide_by_sd=False, kl_loss_coef=0.0, aggregation=Aggregation.token_mean)
COEF = 0.7
both_baselines = pytest.mark.parametrize("kind", list(GroupBaseline))


def regularised_slope(policy: TabularPolicy, rewards: Tensor) -> Tensor:
    mdp = policy.mdp
    return slope(mdp.regularised(policy.logits, policy.reference, rewards, COEF), policy)


# REINFORCE


@every_mdp
def test_reinforce_has_the_policy_gradient_with_and_without_the_penalty(mdp: TokenMDP) -> None:
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    assert torch.allclose(loss_gradient(REINFORCE, policy, rewards), -return_slope(policy, rewards))
    found = loss_gradient(replace(REINFORCE, kl=KLPenalty(coef=COEF)), policy, rewards)
    assert torch.allclose(found, -regularised_slope(policy, rewards))
    late = loss_gradient(REINFORCE, policy, rewards.roll(1, dims=1))
    assert not torch.allclose(late, -return_slope(policy, rewards), atol=1e-2)


@every_mdp
def test_reinforce_running_mean_changes_no_mean(mdp: TokenMDP) -> None:
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    algorithm = Reinforce(kl=FREE, baseline=Baseline.running)
    rollout, state = policy.roll_out(), {**algorithm.initial_state(), "reinforce/baseline": 3.0}
    targets = algorithm.targets(rollout, algorithm.shape(rewards, rollout, state))
    assert torch.allclose(targets.advantages, keep(mdp.to_go(rewards) - 3, mdp.mask))
    weights = mdp.probability(policy.logits).detach()
    found = expected_loss_gradient(algorithm, policy, rollout, targets, weights)
    assert torch.allclose(found, -return_slope(policy, rewards))


@pytest.mark.parametrize("eos", [0, 2])
def test_reinforce_mean_of_the_others_changes_no_mean(eos: int) -> None:
    """All 225 batches of two responses. With the response's own return in the mean, the gradient
    would be half as long."""
    mdp = TokenMDP(eos=eos)
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    everything, algorithm = policy.roll_out(), Reinforce(kl=FREE, baseline=Baseline.batch)
    rows = torch.arange(len(mdp.ids))
    pairs = torch.cartesian_prod(rows, rows)
    parts = [targets_of(algorithm, rewards[pair], everything[pair]) for pair in pairs]
    targets = type(parts[0]).concatenate(parts)
    p = mdp.probability(policy.logits).detach()
    weights = p[pairs].prod(dim=1).repeat_interleave(2)
    chosen = everything[pairs.flatten()]
    found = expected_loss_gradient(algorithm, policy, chosen, targets, weights) / 2
    assert torch.allclose(found, -return_slope(policy, rewards))


# RLOO


@every_mdp
@both_baselines
def test_rloo_has_the_policy_gradient(mdp: TokenMDP, kind: GroupBaseline) -> None:
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    algorithm = replace(PLAIN_RLOO, group_baseline=kind)
    found = group_gradient(algorithm, policy, rewards, size=2)
    assert torch.allclose(found, -return_slope(policy, rewards))
    penalised = replace(algorithm, kl=KLPenalty(coef=COEF))
    found = group_gradient(penalised, policy, rewards, size=2)
    assert torch.allclose(found, -regularised_slope(policy, rewards))


def test_rloo_has_the_policy_gradient_with_three_samples() -> None:
    mdp = TokenMDP(eos=0)
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    found = group_gradient(PLAIN_RLOO, policy, rewards, size=3)
    assert torch.allclose(found, -return_slope(policy, rewards))


@every_mdp
def test_rloo_lowers_the_variance(mdp: TokenMDP) -> None:
    """Compared with no baseline, where scores are far from 0."""
    policy, rewards = policy_of(mdp), mdp.last_reward(10 + mdp.token_rewards(4).sum(dim=1))
    size = mdp.per_prompt
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    chosen = pairs.flatten()
    rollout = replace(policy.roll_out()[chosen], groups=torch.arange(size**2).repeat_interleave(2))
    p = mdp.prompts * mdp.probability(policy.logits).detach()
    weights = p[pairs].prod(dim=1).repeat_interleave(2)[:, None]

    def second_moment(algorithm: RLOO | Reinforce) -> float:
        advantages = targets_of(algorithm, rewards[chosen], rollout).advantages
        return float((weights * advantages.square()).sum())

    assert second_moment(PLAIN_RLOO) < 0.1 * second_moment(REINFORCE)


# GRPO


@every_mdp
@both_baselines
def test_grpo_without_its_divisors_has_a_shorter_policy_gradient(
    mdp: TokenMDP, kind: GroupBaseline
) -> None:
    """The mean contains the response itself, which takes 1 / size of the gradient away."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    algorithm = replace(PLAIN_GRPO, group_baseline=kind)
    found = group_gradient(algorithm, policy, rewards, size=2)
    assert torch.allclose(found, -0.5 * return_slope(policy, rewards))


def test_grpo_with_three_samples_keeps_two_thirds() -> None:
    mdp = TokenMDP(eos=0)
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    found = group_gradient(PLAIN_GRPO, policy, rewards, size=3)
    assert torch.allclose(found, -2 / 3 * return_slope(policy, rewards))


@every_mdp
def test_grpo_divided_by_the_deviation_maximises_wins(mdp: TokenMDP) -> None:
    """Of two responses the better one gets +1/√2 and the other −1/√2, however far apart they are:
    the objective is the share of won comparisons with the old policy, not the expected score."""
    policy, scores = policy_of(mdp), mdp.token_rewards(4).sum(dim=1)
    algorithm = replace(PLAIN_GRPO, divide_by_sd=True)
    found = group_gradient(algorithm, policy, mdp.last_reward(scores), size=2)
    p = (mdp.prompts * mdp.probability(policy.logits)).detach()
    same = mdp.prompt[:, None] == mdp.prompt[None]
    wins = ((scores[:, None] - scores[None]).sign() * p * same).sum(dim=1)
    objective = mdp.expected_return(policy.logits, mdp.last_reward(wins))
    assert torch.allclose(found, -slope(objective, policy) / 2**0.5, atol=1e-5)
    far = group_gradient(algorithm, policy, mdp.last_reward(100 * scores), size=2)
    assert torch.allclose(found, far, atol=1e-4)
    true = return_slope(policy, mdp.last_reward(scores))
    assert 0.5 < cosine(-found, true) < 0.995


def test_grpo_mean_over_each_response_favours_short_good_ones() -> None:
    """With one length for all it only scales; with several it is another gradient."""
    for mdp, same in ((TokenMDP(), True), (TokenMDP(eos=0), False)):
        policy, rewards = policy_of(mdp), mdp.last_reward(mdp.token_rewards(4).sum(dim=1))
        algorithm = replace(PLAIN_GRPO, aggregation=Aggregation.sequence_mean)
        found = group_gradient(algorithm, policy, rewards, size=2)
        direction = cosine(-found, return_slope(policy, rewards))
        assert (direction == pytest.approx(1)) is same
        if same:
            assert torch.allclose(found, -return_slope(policy, rewards) / 6)


@every_mdp
def test_grpo_k3_in_the_loss_is_the_reverse_divergence(mdp: TokenMDP) -> None:
    """At ratio 1 the slope of k3 in log π is 1 − π_ref / π, whose mean is the slope of
    KL(π_ref ‖ π) in the states that are visited, although the mean of k3 is KL(π ‖ π_ref)."""
    policy = policy_of(mdp)
    nothing = torch.zeros_like(mdp.token_rewards(4))
    algorithm = replace(PLAIN_GRPO, kl_loss_coef=COEF)
    found = group_gradient(algorithm, policy, nothing, size=2)
    visits = mdp.probability(policy.logits).detach()[:, None] * mdp.mask
    reverse = mdp.token_kl(policy.reference, policy.logits)[mdp.states]
    assert torch.allclose(found, slope(COEF * (visits * reverse).sum(), policy))
    forward = mdp.token_kl(policy.logits, policy.reference)[mdp.states]
    assert not torch.allclose(found, slope(COEF * (visits * forward).sum(), policy), atol=1e-2)
    assert not torch.allclose(
        found, slope(COEF * mdp.kl(policy.logits, policy.reference), policy), atol=1e-2
    )


@every_mdp
@pytest.mark.parametrize("algorithm", [PLAIN_RLOO, PLAIN_GRPO], ids=["rloo", "grpo"])
def test_groups_must_be_of_one_prompt_and_of_independent_responses(
    mdp: TokenMDP, algorithm: RLOO | GRPO
) -> None:
    """A group that repeats one response has no gradient, and groups moved by one row mislead."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    doubled = torch.arange(len(mdp.ids)).repeat_interleave(2)
    groups = torch.arange(len(mdp.ids)).repeat_interleave(2)
    weights = mdp.probability(policy.logits).detach().repeat_interleave(2)
    everything = replace(policy.roll_out()[doubled], groups=groups)

    def gradient(groups: Tensor) -> Tensor:
        rollout = replace(everything, groups=groups)
        targets = targets_of(algorithm, mdp.last_reward(rewards.sum(dim=1))[doubled], rollout)
        return expected_loss_gradient(algorithm, policy, rollout, targets, weights)

    assert gradient(groups).abs().max() < 1e-12
    assert gradient(groups.roll(1)).abs().max() > 1e-2


@every_mdp
def test_grpo_advantages_are_bounded_whatever_is_paid_when(mdp: TokenMDP) -> None:
    """Divided by a group's spread, no advantage of a pair can exceed 1/√2. A spread of the totals
    alone is 0 where all totals are equal, while rewards that come early and late still differ."""
    policy, scores = policy_of(mdp), torch.ones(len(mdp.ids), dtype=torch.float64)
    early, late = (torch.arange(3) == 0) * scores[:, None], mdp.last_reward(scores)
    rows = torch.tensor([mdp.per_prompt - 3, mdp.per_prompt - 2])
    assert mdp.mask[rows].sum() > 4
    rollout = replace(policy.roll_out()[rows], groups=torch.zeros(2, dtype=torch.long))
    algorithm = replace(PLAIN_GRPO, divide_by_sd=True)
    for late_pay in (1.0, 1.001):  # the totals are equal, or nearly so
        rewards = torch.stack([early[rows[0]], late_pay * late[rows[1]]])
        advantages = targets_of(algorithm, rewards, rollout).advantages
        assert 0.7 < advantages.abs().max() <= 0.5**0.5 + 1e-6
    advantages = targets_of(algorithm, early[rows], rollout).advantages
    assert (advantages == 0).all()  # the group does not differ

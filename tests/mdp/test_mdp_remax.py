"""ReMax as published: where its gradient is the policy gradient, and where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mdp_gradients import cosine, every_mdp, loss_gradient, policy_of, return_slope, slope
from token_mdp import TabularPolicy, TokenMDP
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.remax import ReMax
from tokencredit.ops import keep

PLAIN_REMAX = ReMax(kl=KLPenalty(coef=0.0), return_clip=None)
COEF = 0.7


def greedy_totals(policy: TabularPolicy, rewards: Tensor) -> Tensor:
    """The total of the greedy response to each row's prompt."""
    mdp = policy.mdp
    return rewards.sum(dim=1)[mdp.greedy(policy.logits)][mdp.prompt]


@every_mdp
def test_remax_greedy_baseline_leaves_the_gradient_unbiased(mdp: TokenMDP) -> None:
    """Without discount, penalty, and clip, for any token rewards."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    baseline = greedy_totals(policy, rewards)
    found = loss_gradient(PLAIN_REMAX, policy, rewards, baseline)
    assert torch.allclose(found, -return_slope(policy, rewards))
    other = loss_gradient(PLAIN_REMAX, policy, rewards, baseline + 2)
    assert torch.allclose(found, other)
    own = loss_gradient(PLAIN_REMAX, policy, rewards, rewards.sum(dim=1))  # not a baseline
    assert not torch.allclose(found, own, atol=1e-2)


@pytest.mark.parametrize("eos", [None, 0])
def test_remax_discount_counts_from_behind_the_end(eos: int | None) -> None:
    """The published coefficient γ^(n−t) R is not the gradient of a discounted return: the factor
    grows towards the end. With one length the baseline still cancels; with several it does not,
    for its factor then depends on when the response ends, which its actions decide."""
    mdp = TokenMDP(eos=eos, gamma=0.9)
    algorithm = replace(PLAIN_REMAX, gamma=0.9)
    policy = policy_of(mdp)
    scores = mdp.token_rewards(4).sum(dim=1)
    rewards = mdp.last_reward(scores)
    baseline = greedy_totals(policy, rewards)
    lengths = mdp.mask.sum(dim=1, keepdim=True)
    factor = 0.9 ** (lengths - torch.arange(3))
    weights = mdp.probability(policy.logits).detach()

    def published(baseline: Tensor) -> Tensor:
        coefficients = keep(factor * (scores - baseline)[:, None], mdp.mask)
        return slope((weights[:, None] * coefficients * mdp.logp(policy.logits)).sum(), policy)

    found = loss_gradient(algorithm, policy, rewards, baseline)
    assert torch.allclose(found, -published(baseline))
    without = published(torch.zeros_like(baseline))
    assert torch.allclose(found, -without) == (eos is None)
    assert cosine(-found, return_slope(policy, rewards)) < 0.9999


@every_mdp
def test_remax_penalty_sees_its_own_token_only(mdp: TokenMDP) -> None:
    """As published, a token pays for its own KL and not for that of what follows: the gradient of
    each visited state's divergence, not that of the responses' divergence."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    baseline = greedy_totals(policy, rewards)
    found = loss_gradient(replace(PLAIN_REMAX, kl=KLPenalty(coef=COEF)), policy, rewards, baseline)
    visits = mdp.probability(policy.logits).detach()[:, None] * mdp.mask
    own = mdp.token_kl(policy.logits, policy.reference)[mdp.states]
    expected = return_slope(policy, rewards) - slope(COEF * (visits * own).sum(), policy)
    assert torch.allclose(found, -expected)
    regularised = mdp.regularised(policy.logits, policy.reference, rewards, COEF)
    assert not torch.allclose(expected, slope(regularised, policy), atol=1e-2)


@every_mdp
def test_remax_clip_biases_where_it_binds(mdp: TokenMDP) -> None:
    """It binds on the score less the baseline, however far both are from 0."""
    policy, rewards = policy_of(mdp), mdp.last_reward(50 + mdp.token_rewards(4).sum(dim=1))
    baseline = greedy_totals(policy, rewards)
    gaps = (rewards.sum(dim=1) - baseline).abs()
    wide = replace(PLAIN_REMAX, return_clip=float(gaps.max()) + 0.1)
    narrow = replace(PLAIN_REMAX, return_clip=float(gaps.median()))
    true = return_slope(policy, rewards)
    assert torch.allclose(loss_gradient(wide, policy, rewards, baseline), -true)
    assert not torch.allclose(loss_gradient(narrow, policy, rewards, baseline), -true, atol=1e-2)

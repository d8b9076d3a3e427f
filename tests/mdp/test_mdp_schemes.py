"""Schemes that pay a response its score, in exact terms: S7, S8, S9, and their gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mdp_gradients import loss_gradient, policy_of, return_slope, slope
from token_mdp import TokenMDP
from tokencredit.algorithms.advantages import Whiten, gae
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.ops import keep
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rollout import Judgement

CASES = [TokenMDP(eos=eos) for eos in (None, 0, 2)]
every_mdp = pytest.mark.parametrize("mdp", CASES, ids=lambda m: f"eos_{m.eos}")
SCHEMES: list[RewardScheme] = [
    Sparse(),
    Uniform(),
    *(Redistribute(beta=beta) for beta in (0.0, 0.3, 0.8, 1.0)),
]
every_scheme = pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda s: f"{type(s).__name__}{getattr(s, 'beta', '')}"
)


def scheme_rewards(mdp: TokenMDP, scheme: RewardScheme) -> tuple[Tensor, Tensor]:
    """Scores of all responses and their token rewards by a scheme."""
    rollout = mdp.rollout(mdp.random(1), mdp.random(1), mdp.random(1)[:, 0])
    scores = mdp.token_rewards(4).sum(dim=1)
    evidence = mdp.token_rewards(5).abs() + 0.05 * mdp.mask
    return scores, scheme.token_rewards(rollout, Judgement(scores=scores, evidence=evidence))


@every_mdp
@every_scheme
def test_papers_S7_every_response_is_paid_its_score(mdp: TokenMDP, scheme: RewardScheme) -> None:
    scores, rewards = scheme_rewards(mdp, scheme)
    assert torch.allclose(rewards.sum(dim=1), scores)
    assert (rewards[~mdp.mask] == 0).all()
    late = rewards.roll(1, dims=1)  # paid one token late, the last one behind the end
    late[:, 0] = 0.0
    assert not torch.allclose(keep(late, mdp.mask).sum(dim=1), scores, atol=1e-2)


@every_mdp
@every_scheme
def test_papers_S8_first_advantages_do_not_depend_on_the_scheme(
    mdp: TokenMDP, scheme: RewardScheme
) -> None:
    """With γ = λ = 1 and V = 0 the first advantage is the score; later ones are what is to go."""
    scores, rewards = scheme_rewards(mdp, scheme)
    nothing = torch.zeros_like(rewards)
    advantages, _ = gae(rewards, nothing, mdp.mask, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages[:, 0], scores)
    assert torch.allclose(advantages, mdp.to_go(rewards))
    same = keep(scores[:, None].expand(mdp.mask.shape), mdp.mask)
    is_sparse = isinstance(scheme, Sparse) or getattr(scheme, "beta", 1.0) == 0
    assert torch.allclose(advantages, same, atol=1e-3) == is_sparse
    discounted, _ = gae(rewards, nothing, mdp.mask, gamma=0.9, lam=1.0)
    assert not torch.allclose(discounted[:, 0], scores, atol=1e-3)


@every_mdp
@every_scheme
def test_papers_S9_which_response_is_best_does_not_depend_on_the_scheme(
    mdp: TokenMDP, scheme: RewardScheme
) -> None:
    scores, rewards = scheme_rewards(mdp, scheme)
    sparse, logits = mdp.last_reward(scores), mdp.random(6)
    assert torch.allclose(mdp.to_go(rewards)[:, 0], scores)
    assert torch.allclose(mdp.expected_return(logits, rewards), mdp.expected_return(logits, sparse))
    discounted = TokenMDP(eos=mdp.eos, gamma=0.9)
    if not torch.allclose(rewards, sparse):  # an identity of undiscounted returns only
        gap = discounted.expected_return(logits, rewards - sparse)
        assert gap.abs() > 1e-3


BETAS = (0.0, 0.3, 0.8, 1.0)


@every_mdp
def test_papers_A9_a_completed_response_returns_the_same_for_every_beta(mdp: TokenMDP) -> None:
    """Shares depend on the response; its return does not, so the best response is the same too.

    Nothing more is claimed: see the two tests below.
    """
    scores, sparse = scheme_rewards(mdp, Sparse())
    best = int(scores.argmax())
    for beta in BETAS:
        _, rewards = scheme_rewards(mdp, Redistribute(beta=beta))
        returns = mdp.to_go(rewards)[:, 0]
        assert torch.allclose(returns, mdp.to_go(sparse)[:, 0])
        assert int(returns.argmax()) == best
        # Mutation: shares that do not sum to 1 make the return depend on β.
        halved = mdp.to_go(rewards * (1 - 0.5 * beta))[:, 0]
        assert torch.allclose(halved, returns) is (beta == 0)


@every_mdp
def test_papers_A15_the_potential_is_no_function_of_the_state(mdp: TokenMDP) -> None:
    """Φ(s_t) = R Σ_{i<t} α_i makes the dense part a difference of potentials (A8), but R and α are
    those of the completion: responses that share a state have different potentials there."""
    _, rewards = scheme_rewards(mdp, Redistribute(beta=1.0))
    potential = already_paid(mdp, rewards)
    second = mdp.mask[:, 1]
    spread = [
        float(potential[second & (mdp.states[:, 1] == state), 1].std())
        for state in mdp.states[second, 1].unique()
    ]
    assert min(spread) > 1e-2
    # A reward of state and token has one.
    honest = already_paid(mdp, mdp.token_rewards(4))
    for state in mdp.states[second, 1].unique():
        assert honest[second & (mdp.states[:, 1] == state), 1].std() < 1e-12


PLAIN = PPO(lam=1.0, whiten=Whiten.none, value_coef=0.0, kl=KLPenalty(coef=0.0))


def already_paid(mdp: TokenMDP, rewards: Tensor) -> Tensor:
    """(N, T) Σ_{u < t} r_u."""
    return keep(rewards.cumsum(dim=1) - rewards, mdp.mask)


@every_mdp
@every_scheme
def test_rewards_to_go_leave_out_what_an_action_does_to_rewards_already_paid(
    mdp: TokenMDP, scheme: RewardScheme
) -> None:
    """The expected return is the score for every scheme, and so is its gradient. But a share of the
    score that is paid early depends on the tokens that follow, and A_t counts rewards from t on:
    with λ = γ = 1 a redistributed score has another expected gradient than a sparse one."""
    scores, rewards = scheme_rewards(mdp, scheme)
    policy, sparse = policy_of(mdp), mdp.last_reward(scores)
    true = return_slope(policy, sparse)
    assert torch.allclose(return_slope(policy, rewards), true, atol=1e-6)
    weight = mdp.probability(policy.logits).detach()[:, None]
    lost = slope((weight * already_paid(mdp, rewards) * mdp.logp(policy.logits)).sum(), policy)
    found = loss_gradient(PLAIN, policy, rewards)
    assert torch.allclose(found, lost - true, atol=1e-6)
    assert bool(lost.abs().max() < 1e-6) is torch.allclose(rewards, sparse)


def test_uniform_scales_the_gradient_of_each_position() -> None:
    """With one length n a token at t gets (n − t) / n of its gradient: the same ascent, but the
    less the later."""
    mdp = TokenMDP()
    scores, rewards = scheme_rewards(mdp, Uniform())
    policy = policy_of(mdp)
    share = torch.tensor([1.0, *[2 / 3] * 3, *[1 / 3] * 9], dtype=scores.dtype)[:, None]
    found = loss_gradient(PLAIN, policy, rewards)
    assert torch.allclose(found, -share * return_slope(policy, mdp.last_reward(scores)), atol=1e-6)


@every_mdp
def test_rewards_that_foresee_nothing_lose_nothing(mdp: TokenMDP) -> None:
    """A reward of state and token, such as a potential's difference, is indifferent to the rest."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    weight = mdp.probability(policy.logits).detach()[:, None]
    lost = slope((weight * already_paid(mdp, rewards) * mdp.logp(policy.logits)).sum(), policy)
    assert lost.abs().max() < 1e-12
    late = mdp.last_reward(rewards.sum(dim=1))
    found = [loss_gradient(PLAIN, policy, x) for x in (rewards, late)]
    assert torch.allclose(*found)
    short = [loss_gradient(replace(PLAIN, lam=0.5), policy, x) for x in (rewards, late)]
    assert not torch.allclose(*short, atol=1e-3)

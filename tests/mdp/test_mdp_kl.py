"""Estimators of the KL divergence against the divergence itself, and controllers against optima."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from token_mdp import FLOAT, TokenMDP
from tokencredit.algorithms.kl import Controller, Estimator, KLPenalty
from tokencredit.ops import keep, masked_sum
from tokencredit.rollout import Rollout

CASES = [TokenMDP(), TokenMDP(eos=0), TokenMDP(eos=2, prompts=2)]
every_mdp = pytest.mark.parametrize("mdp", CASES, ids=lambda m: f"eos_{m.eos}-prompts_{m.prompts}")
UNBIASED = [e for e in Estimator if e.value in {"k1", "k3", "full"}]
BIASED = [e for e in Estimator if e.value in {"abs", "mse"}]


def rollout_of(mdp: TokenMDP, policy: Tensor, reference: Tensor) -> Rollout:
    return mdp.rollout(policy, reference, torch.zeros(len(policy), dtype=FLOAT))


def mean_over_tokens_of_a_state(mdp: TokenMDP, policy: Tensor, estimates: Tensor) -> Tensor:
    """(S,) E over the token of each state; 0 where no response passes."""
    plain = TokenMDP(eos=mdp.eos, gamma=0.0, prompts=mdp.prompts)
    return plain.values(policy, estimates)


def visited(mdp: TokenMDP) -> Tensor:
    table = torch.zeros(mdp.prompts * mdp.prefixes, dtype=torch.bool)
    table[mdp.states[mdp.mask]] = True
    return table


def test_every_estimator_is_named_here() -> None:
    assert {*UNBIASED, *BIASED} == set(Estimator)


@every_mdp
@pytest.mark.parametrize("estimator", UNBIASED)
def test_papers_S6_field_B20_mean_estimate_is_the_divergence(
    mdp: TokenMDP, estimator: Estimator
) -> None:
    policy, reference = mdp.random(1), mdp.random(2)
    estimates = KLPenalty(estimator=estimator).per_token(rollout_of(mdp, policy, reference))
    exact = torch.where(visited(mdp), mdp.token_kl(policy, reference), 0.0)
    assert torch.allclose(mean_over_tokens_of_a_state(mdp, policy, estimates), exact)
    mean = (mdp.probability(policy) * masked_sum(estimates, mdp.mask)).sum()
    assert torch.allclose(mean, mdp.kl(policy, reference)) and mean > 0.1


@every_mdp
@pytest.mark.parametrize("estimator", BIASED)
def test_biased_estimators_are_not_the_divergence(mdp: TokenMDP, estimator: Estimator) -> None:
    policy, reference = mdp.random(1), mdp.random(2)
    estimates = KLPenalty(estimator=estimator).per_token(rollout_of(mdp, policy, reference))
    mean = (mdp.probability(policy) * masked_sum(estimates, mdp.mask)).sum()
    assert (mean - mdp.kl(policy, reference)).abs() > 0.1
    assert (estimates >= 0).all()


@every_mdp
def test_biased_estimators_are_what_they_say(mdp: TokenMDP) -> None:
    """Half the square comes to the divergence as both policies come together; |d| never does."""
    policy, step = mdp.random(1), mdp.random(2, scale=0.01)

    def share(estimator: str) -> float:
        penalty = KLPenalty(estimator=Estimator(estimator))
        estimates = penalty.per_token(rollout_of(mdp, policy, policy + step))
        mean = (mdp.probability(policy) * masked_sum(estimates, mdp.mask)).sum()
        return float(mean / mdp.kl(policy, policy + step))

    assert share("mse") == pytest.approx(1, abs=0.02)
    assert share("abs") > 10
    gap = mdp.logp(policy) - mdp.logp(policy + step)
    estimates = KLPenalty(estimator=Estimator.abs).per_token(rollout_of(mdp, policy, policy + step))
    assert torch.allclose(estimates, gap.abs())


@every_mdp
def test_papers_S6_divergence_is_0_only_for_equal_distributions(mdp: TokenMDP) -> None:
    policy = mdp.random(1)
    shifted = policy + mdp.random(2)[:, :1]  # the same distribution with other logits
    assert mdp.token_kl(policy, shifted).abs().max() < 1e-12
    for estimator in Estimator:
        same = KLPenalty(estimator=estimator).per_token(rollout_of(mdp, policy, shifted))
        assert same.abs().max() < 1e-12
    for seed in range(2, 7):
        exact = mdp.token_kl(policy, mdp.random(seed, scale=0.1))
        assert (exact[visited(mdp)] > 0).all()


@every_mdp
def test_k3_is_never_negative_and_k1_is(mdp: TokenMDP) -> None:
    for seed in range(5):
        rollout = rollout_of(mdp, mdp.random(seed), mdp.random(seed + 10))
        k1, k3 = (
            KLPenalty(estimator=e).per_token(rollout)[mdp.mask]
            for e in (Estimator.k1, Estimator.k3)
        )
        assert k3.min() >= 0 and k1.min() < -0.1


@every_mdp
def test_the_exact_penalty_varies_less_than_the_sampled_ones(mdp: TokenMDP) -> None:
    """Not only the mean: `full` is the divergence of every state that is visited."""
    policy, reference = mdp.random(1), mdp.random(2)
    rollout = rollout_of(mdp, policy, reference)
    full = KLPenalty(estimator=Estimator("full")).per_token(rollout)
    expected = keep(mdp.token_kl(policy, reference)[mdp.states], mdp.mask)
    assert torch.allclose(full, expected)

    def spread(estimator: str) -> float:
        estimates = KLPenalty(estimator=Estimator(estimator)).per_token(rollout)
        square = masked_sum((estimates - expected).square(), mdp.mask)
        return float((mdp.probability(policy) * square).sum())

    assert spread("full") < 1e-20 and min(spread("k1"), spread("k3")) > 0.01


def test_field_B20_sampling_from_another_distribution_makes_the_mean_negative() -> None:
    """The end token is banned while sampling and counted while scoring: k1 no longer means KL."""
    mdp = TokenMDP(eos=0)
    policy, reference = mdp.random(1, scale=0.1), mdp.random(2, scale=0.1)
    policy[:, 0] += 2.0  # it has learned to end, which the sampler forbids
    banned = policy.clone()
    banned[:, 0] = -30.0
    k1 = KLPenalty().per_token(rollout_of(mdp, policy, reference)).sum(dim=1)
    honest = (mdp.probability(policy) * k1).sum()
    assert torch.allclose(honest, mdp.kl(policy, reference))
    assert (mdp.probability(banned) * k1).sum() < -1
    k3 = KLPenalty(estimator=Estimator.k3).per_token(rollout_of(mdp, policy, reference))
    assert (mdp.probability(banned) * k3.sum(dim=1)).sum() > 0


@every_mdp
@pytest.mark.parametrize("mutation", ["shifted mask", "one token late", "swapped"])
def test_field_B12_the_identity_notices(mdp: TokenMDP, mutation: str) -> None:
    policy, reference = mdp.random(1), mdp.random(2)
    rollout = rollout_of(mdp, policy, reference)
    if mutation == "shifted mask":
        shifted = mdp.mask & torch.tensor([False, True, True])
        rollout = replace(rollout, response_mask=shifted)
    elif mutation == "one token late":
        rollout = replace(rollout, ref_logp=rollout.ref_logp.roll(1, dims=1))
    else:
        rollout = replace(rollout, logp=rollout.ref_logp, ref_logp=rollout.logp)
    estimates = mean_over_tokens_of_a_state(mdp, policy, KLPenalty().per_token(rollout))
    exact = torch.where(visited(mdp), mdp.token_kl(policy, reference), 0.0)
    assert (estimates - exact).abs().max() > 0.1


def test_papers_S5_proportional_controller_finds_the_target() -> None:
    """Between steps the policy moves to the exact optimum of the present coefficient."""
    mdp = TokenMDP()
    reference, scores = mdp.random(1), mdp.token_rewards(2).sum(dim=1)
    penalty = KLPenalty(coef=5.0, target=0.4, horizon=100.0)

    def divergence(coef: float) -> float:
        return float(mdp.kl(mdp.optimum(reference, scores, coef), reference))

    coef = penalty.coef
    assert divergence(coef) < 0.2
    for _ in range(200):
        coef = penalty.next_coef(coef, divergence(coef), 16)
    assert divergence(coef) == pytest.approx(0.4, abs=1e-3)
    backwards = 5.0
    for _ in range(200):  # a controller with its sign turned runs away
        backwards = penalty.next_coef(backwards, 2 * 0.4 - divergence(backwards), 16)
    assert divergence(backwards) < 1e-2
    fixed = KLPenalty(coef=5.0, controller=Controller.fixed)
    assert fixed.next_coef(5.0, divergence(5.0), 16) == 5.0


def test_doubling_controller_finds_the_band_of_its_target() -> None:
    """The same against the reference; between 1.5 and 1 / 1.5 of the target it rests."""
    mdp = TokenMDP()
    reference, scores = mdp.random(1), mdp.token_rewards(2).sum(dim=1)
    penalty = KLPenalty(coef=50.0, target=0.4, controller=Controller.doubling)
    coef, steps = penalty.coef, []
    for _ in range(20):
        kl = float(mdp.kl(mdp.optimum(reference, scores, coef), reference))
        steps.append(kl)
        coef = penalty.next_coef(coef, kl, 16)
    assert steps[0] < 0.01 and 0.4 / 1.5 < steps[-1] < 1.5 * 0.4
    assert steps[-1] == steps[-2]

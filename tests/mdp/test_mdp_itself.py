"""The enumerable MDP against hand counts, a second way to compute everything, and its optimum."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from token_mdp import FLOAT, TabularPolicy, TokenMDP
from tokencredit.ops import masked_sum

CASES = [
    TokenMDP(),
    TokenMDP(gamma=0.9),
    TokenMDP(eos=0),
    TokenMDP(eos=2, gamma=0.9),
    TokenMDP(eos=1, prompts=2),
]
every_mdp = pytest.mark.parametrize(
    "mdp", CASES, ids=lambda m: f"eos_{m.eos}-gamma_{m.gamma}-prompts_{m.prompts}"
)


def zeros(mdp: TokenMDP) -> Tensor:
    return torch.zeros_like(mdp.random(0))


def test_counts_by_hand() -> None:
    assert len(TokenMDP().ids) == 27 and TokenMDP().prefixes == 13
    ended = TokenMDP(eos=0)
    assert len(ended.ids) == 1 + 2 + 4 * 3
    assert sorted(ended.mask.sum(dim=1).tolist()) == [1, 2, 2, *[3] * 12]
    twice = TokenMDP(eos=0, prompts=2)
    assert len(twice.ids) == 30 and twice.states.max() < 26


def test_uniform_policy_by_hand() -> None:
    mdp, discounted = TokenMDP(), TokenMDP(gamma=0.9)
    ones = (mdp.ids == 2).to(FLOAT)  # a reward of 1 for each token 2
    assert mdp.expected_return(zeros(mdp), ones).item() == pytest.approx(1)
    assert discounted.expected_return(zeros(mdp), ones).item() == pytest.approx(2.71 / 3)
    advantages = mdp.advantages(zeros(mdp), ones)
    assert torch.allclose(advantages, torch.tensor([-1 / 3, -1 / 3, 2 / 3], dtype=FLOAT))
    ended = TokenMDP(eos=0)
    lengths = ended.mask.sum(dim=1)
    mean = (ended.probability(zeros(ended)) * lengths).sum()
    assert mean.item() == pytest.approx(1 / 3 + 2 * 2 / 9 + 3 * 4 / 9)


@every_mdp
def test_probabilities_sum_to_1_and_states_are_prefixes(mdp: TokenMDP) -> None:
    assert mdp.probability(mdp.random(1)).sum().item() == pytest.approx(1)
    said: dict[int, tuple[int, ...]] = {}
    for row, t in itertools.product(range(len(mdp.ids)), range(3)):
        if mdp.mask[row, t]:
            prefix = (int(mdp.prompt[row]), *mdp.ids[row, :t].tolist())
            assert said.setdefault(int(mdp.states[row, t]), prefix) == prefix
    assert len(set(said.values())) == len(said)
    assert len(said) == mdp.prompts * (13 if mdp.eos is None else 7)


def recursive(mdp: TokenMDP, logits: Tensor, table: Tensor, state: int, left: int) -> Tensor:
    """V of a state by Bellman's equation, for rewards of state and token."""
    total = torch.zeros((), dtype=FLOAT)
    for a, p in enumerate(logits[state].softmax(dim=0)):
        following = torch.zeros((), dtype=FLOAT)
        if left > 1 and a != mdp.eos:
            following = recursive(mdp, logits, table, 3 * state + a + 1, left - 1)
        total = total + p * (table[state, a] + mdp.gamma * following)
    return total


@pytest.mark.parametrize("eos", [None, 0, 2])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_values_satisfy_bellmans_equation(eos: int | None, gamma: float) -> None:
    mdp = TokenMDP(eos=eos, gamma=gamma)
    logits, table = mdp.random(1), (64 * mdp.random(2)).round() / 64
    rewards = mdp.token_rewards(2)
    expected = recursive(mdp, logits, table, 0, 3)
    assert torch.allclose(mdp.values(logits, rewards)[0], expected)
    assert torch.allclose(mdp.expected_return(logits, rewards), expected)
    assert not torch.allclose(recursive(mdp, logits, table, 0, 2), expected, atol=1e-2)


@every_mdp
def test_gradient_is_that_of_finite_differences(mdp: TokenMDP) -> None:
    logits, rewards = mdp.random(1).requires_grad_(), mdp.token_rewards(2)
    (gradient,) = torch.autograd.grad(mdp.expected_return(logits, rewards), logits)
    step = 1e-6 * mdp.random(3)
    with torch.no_grad():
        up, down = (mdp.expected_return(logits + s * step, rewards) for s in (1, -1))
    assert (gradient * step).sum().item() == pytest.approx(((up - down) / 2).item(), rel=1e-6)


@every_mdp
def test_divergence_of_responses_is_that_of_their_tokens(mdp: TokenMDP) -> None:
    policy, reference = mdp.random(1), mdp.random(2)
    tokens = mdp.token_kl(policy, reference)[mdp.states]
    total = (mdp.probability(policy) * masked_sum(tokens, mdp.mask)).sum()
    assert torch.allclose(total, mdp.kl(policy, reference)) and total > 0.1
    assert mdp.kl(policy, policy).item() == pytest.approx(0)


@every_mdp
@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_optimum_of_the_regularised_objective(mdp: TokenMDP, beta: float) -> None:
    """Gibbs' variational principle: the optimum is β log Z, its gradient 0, all others are worse."""
    reference, scores = mdp.random(1), mdp.token_rewards(2).sum(dim=1)
    flat = TokenMDP(eos=mdp.eos, prompts=mdp.prompts)
    best = mdp.optimum(reference, scores, beta).requires_grad_()
    rewards = mdp.last_reward(scores)
    value = flat.regularised(best, reference, rewards, beta)
    weight = mdp.prompts * mdp.probability(reference) * (scores / beta).exp()
    partition = weight.view(mdp.prompts, -1).sum(dim=1)
    assert torch.allclose(value, beta * partition.log().mean())
    (gradient,) = torch.autograd.grad(value, best)
    assert gradient.abs().max() < 1e-12
    for seed in range(5):
        other = best.detach() + mdp.random(seed, scale=0.1)
        assert flat.regularised(other, reference, rewards, beta) < value
    ratio = mdp.probability(best) / mdp.probability(reference) / (scores / beta).exp()
    per_prompt = ratio.view(mdp.prompts, -1)
    assert torch.allclose(per_prompt, per_prompt[:, :1].expand_as(per_prompt))


@every_mdp
def test_module_says_what_the_tables_say(mdp: TokenMDP) -> None:
    logits, values = mdp.random(1), mdp.random(2)[:, 0]
    policy = TabularPolicy(mdp, logits, values, mdp.random(3))
    rollout = policy.roll_out()
    output = policy(rollout)
    assert torch.equal(output.logp, mdp.logp(logits))
    assert torch.equal(output.logp, rollout.logp) and torch.equal(output.values, rollout.values)
    assert torch.equal(output.full_kl, rollout.full_kl)
    assert output.entropy[mdp.mask].min() > 0 and (output.entropy[~mdp.mask] == 0).all()
    assert rollout.lengths.tolist() == mdp.mask.sum(dim=1).tolist()
    if mdp.eos is not None:
        ended = (mdp.ids == mdp.eos) & mdp.mask
        assert torch.equal(rollout.finished, ended.any(dim=1))


@every_mdp
def test_greedy_response_is_the_likeliest_token_by_token(mdp: TokenMDP) -> None:
    logits = mdp.random(4)
    found = mdp.greedy(logits)
    assert len(found) == mdp.prompts and mdp.prompt[found].tolist() == list(range(mdp.prompts))
    for row in found:
        for t in range(int(mdp.mask[row].sum())):
            assert mdp.ids[row, t] == logits[mdp.states[row, t]].argmax()


@every_mdp
def test_samples_are_distributed_as_the_policy_says(mdp: TokenMDP) -> None:
    logits, count = mdp.random(5), 20_000
    prompts = torch.arange(count) % mdp.prompts
    drawn = mdp.sample(logits, prompts, "sample", 0)
    assert torch.equal(mdp.prompt[drawn], prompts)
    found = torch.bincount(drawn, minlength=len(mdp.ids)) / count
    p = mdp.probability(logits)
    deviation = (found - p).abs() / (p * (1 - p) / count).sqrt()
    assert deviation.max() < 4
    assert torch.equal(drawn, mdp.sample(logits, prompts, "sample", 0))
    assert not torch.equal(drawn, mdp.sample(logits, prompts, "sample", 1))

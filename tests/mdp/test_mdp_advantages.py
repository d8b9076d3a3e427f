"""Estimated advantages, averaged over all futures, against exact ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import make_rollout
from token_mdp import TokenMDP
from tokencredit.algorithms.advantages import Whiten, gae
from tokencredit.algorithms.ppo import PPO
from tokencredit.ops import keep, whiten

CASES = [TokenMDP(eos=eos, gamma=gamma) for eos in (None, 0, 2) for gamma in (1.0, 0.9)]
every_mdp = pytest.mark.parametrize("mdp", CASES, ids=lambda m: f"eos_{m.eos}-gamma_{m.gamma}")
every_lambda = pytest.mark.parametrize("lam", [1.0, 0.95, 0.5, 0.0])


def over_futures(mdp: TokenMDP, logits: Tensor, estimates: Tensor) -> Tensor:
    """(S, V) the mean of token estimates (N, T) over all responses with this state and token."""
    plain = TokenMDP(eos=mdp.eos, gamma=0.0)  # without a discount to come, Q is that mean
    return plain.action_values(logits, estimates)


def reached(mdp: TokenMDP) -> Tensor:
    """(S, V) True where a response passes."""
    table = torch.zeros((mdp.prefixes, mdp.vocabulary), dtype=torch.bool)
    table[mdp.states[mdp.mask], mdp.ids[mdp.mask]] = True
    return table


def exact_advantages(mdp: TokenMDP, logits: Tensor, rewards: Tensor) -> Tensor:
    return torch.where(reached(mdp), mdp.advantages(logits, rewards), 0.0)


def estimated(
    mdp: TokenMDP, rewards: Tensor, table: Tensor, lam: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """GAE of all responses with a table of values (S,)."""
    values = keep(table[mdp.states], mdp.mask)
    mask = mdp.mask if mask is None else mask
    return gae(rewards, values, mask, gamma=mdp.gamma, lam=lam)


@every_mdp
@every_lambda
def test_gae_with_exact_values_is_the_exact_advantage_in_the_mean(
    mdp: TokenMDP, lam: float
) -> None:
    logits, rewards = mdp.random(1), mdp.token_rewards(2)
    advantages, returns = estimated(mdp, rewards, mdp.values(logits, rewards), lam)
    expected = exact_advantages(mdp, logits, rewards)
    assert torch.allclose(over_futures(mdp, logits, advantages), expected)
    assert torch.allclose(over_futures(mdp, logits, returns), mdp.action_values(logits, rewards))
    assert expected.abs().max() > 0.5


@every_mdp
def test_with_lambda_1_wrong_values_shift_and_do_not_bias(mdp: TokenMDP) -> None:
    """A = Q − (whatever the value function says): still a baseline that sees no action."""
    logits, rewards, wrong = mdp.random(1), mdp.token_rewards(2), mdp.random(3)[:, 0]
    advantages, returns = estimated(mdp, rewards, wrong, lam=1.0)
    found = over_futures(mdp, logits, advantages)
    q = mdp.action_values(logits, rewards)
    assert torch.allclose(found, torch.where(reached(mdp), q - wrong[:, None], 0.0))
    assert torch.allclose(over_futures(mdp, logits, returns), q)
    biased, _ = estimated(mdp, rewards, wrong, lam=0.5)
    assert not torch.allclose(over_futures(mdp, logits, biased), found, atol=1e-2)


@every_mdp
def test_lambda_only_changes_the_variance(mdp: TokenMDP) -> None:
    logits, rewards = mdp.random(1), mdp.token_rewards(2)
    values, p = mdp.values(logits, rewards), mdp.probability(logits)
    squares = [
        (p * estimated(mdp, rewards, values, lam)[0][:, 0].square()).sum() for lam in (0, 0.5, 1)
    ]
    assert squares[0] < squares[1] < squares[2]


@every_mdp
@pytest.mark.parametrize("mutation", ["late reward", "early reward", "shifted mask", "discount"])
def test_the_identity_notices(mdp: TokenMDP, mutation: str) -> None:
    logits, rewards = mdp.random(1), mdp.token_rewards(2)
    values, mask, wrong = mdp.values(logits, rewards), mdp.mask, mdp
    if mutation == "late reward":
        rewards_seen = rewards.roll(1, dims=1)
    elif mutation == "early reward":
        rewards_seen = rewards.roll(-1, dims=1)
    else:
        rewards_seen = rewards
    if mutation == "shifted mask":
        mask = mask & torch.tensor([False, True, True])
    if mutation == "discount":
        wrong = TokenMDP(eos=mdp.eos, gamma=0.95)
    advantages, _ = estimated(wrong, rewards_seen, values, 0.95, mask)
    expected = exact_advantages(mdp, logits, rewards)
    assert not torch.allclose(over_futures(mdp, logits, advantages), expected, atol=1e-2)


@every_mdp
def test_whitening_keeps_the_order_of_actions(mdp: TokenMDP) -> None:
    """It shifts and scales, so in each state the better action stays the better one."""
    logits, rewards = mdp.random(1), mdp.token_rewards(2)
    advantages, _ = estimated(mdp, rewards, mdp.values(logits, rewards), 1.0)
    white = over_futures(mdp, logits, whiten(advantages, mdp.mask))
    plain = over_futures(mdp, logits, advantages)
    used = reached(mdp).all(dim=1)
    scale = (white[used, 0] - white[used, 1]) / (plain[used, 0] - plain[used, 1])
    assert torch.allclose(scale, scale[:1].expand_as(scale)) and scale[0] > 0


@every_mdp
def test_papers_S2_both_ends_of_lambda_response_by_response(mdp: TokenMDP) -> None:
    rewards, table = mdp.token_rewards(2), mdp.random(3)[:, 0]
    values = keep(table[mdp.states], mdp.mask)
    following = torch.nn.functional.pad(values, (0, 1))[:, 1:]
    whole = keep(mdp.to_go(rewards) - values, mdp.mask)
    one_step = keep(rewards + mdp.gamma * following - values, mdp.mask)
    assert torch.allclose(estimated(mdp, rewards, table, 1.0)[0], whole)
    assert torch.allclose(estimated(mdp, rewards, table, 0.0)[0], one_step)
    between = estimated(mdp, rewards, table, 0.5)[0]
    for end in (whole, one_step):
        assert not torch.allclose(between, end, atol=1e-2)
    late = estimated(mdp, rewards.roll(1, dims=1), table, 1.0)[0]
    assert not torch.allclose(late, whole, atol=1e-2)


S1 = (torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.7]]), torch.ones(1, 3) > 0)
S1_ADVANTAGES = torch.tensor([[0.46575, 0.385, 0.3]])


@pytest.mark.parametrize(
    "mutation", ["none", "late reward", "shifted mask", "own value follows", "value at the end"]
)
def test_papers_S1_numbers_notice(mutation: str) -> None:
    rewards, values, mask = S1
    if mutation == "late reward":
        rewards = rewards.roll(1, dims=1)
    elif mutation == "shifted mask":
        mask = mask & torch.tensor([False, True, True])
    elif mutation == "own value follows":
        values = values.roll(-1, dims=1)
    elif mutation == "value at the end":  # the state behind the last action is worth something
        rewards = rewards + torch.tensor([0.0, 0.0, 0.7])
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    assert torch.allclose(advantages, S1_ADVANTAGES, atol=1e-5) is (mutation == "none")


WHITENED = {
    Whiten.none: S1_ADVANTAGES,
    Whiten.unbiased: torch.tensor([[0.9913436, 0.0170921, -1.0084358]]),
    Whiten.biased: torch.tensor([[1.2141439, 0.0209335, -1.2350775]]),
}


@pytest.mark.parametrize("kind", list(Whiten))
def test_papers_S1_numbers_through_the_algorithm(kind: Whiten) -> None:
    rewards, values, _ = S1
    rollout = replace(make_rollout([3]), values=values, ref_logp=make_rollout([3]).logp)
    algorithm = PPO(whiten=kind)
    shaped = algorithm.shape(rewards, rollout, algorithm.initial_state())
    targets = algorithm.targets(rollout, shaped)
    assert torch.allclose(targets.advantages, WHITENED[kind], atol=1e-5)
    assert torch.allclose(targets.returns, S1_ADVANTAGES + values, atol=1e-5)
    for other in set(Whiten) - {kind}:
        assert not torch.allclose(targets.advantages, WHITENED[other], atol=1e-2)

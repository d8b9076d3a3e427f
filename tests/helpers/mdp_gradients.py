"""What the tests of gradients on the enumerable MDP share: exact slopes, and expected ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from token_mdp import TabularPolicy, TokenMDP
from tokencredit.algorithms.algorithm import Algorithm, State
from tokencredit.rollout import PolicyOutput, Rollout, Targets

CASES = [TokenMDP(), TokenMDP(eos=0), TokenMDP(eos=2, prompts=2)]
every_mdp = pytest.mark.parametrize("mdp", CASES, ids=lambda m: f"eos_{m.eos}-prompts_{m.prompts}")


def policy_of(mdp: TokenMDP, values: Tensor | None = None) -> TabularPolicy:
    """Logits, reference, and (unless given) wrong values, all random."""
    return TabularPolicy(
        mdp, mdp.random(1), mdp.random(3)[:, 0] if values is None else values, mdp.random(2)
    )


def slope(objective: Tensor, policy: TabularPolicy) -> Tensor:
    """(S, V) ∇ of an objective in the logits."""
    (gradient,) = torch.autograd.grad(objective, policy.logits)
    return gradient


def return_slope(policy: TabularPolicy, rewards: Tensor) -> Tensor:
    """∇ J, exactly."""
    return slope(policy.mdp.expected_return(policy.logits, rewards), policy)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def targets_of(
    algorithm: Algorithm, rewards: Tensor, rollout: Rollout, baseline: Tensor | None = None
) -> Targets:
    """Targets of a first step."""
    shaped = algorithm.shape(rewards, rollout, algorithm.initial_state(), baseline)
    return algorithm.targets(rollout, shaped)


def expected_gradient(
    policy: TabularPolicy, rollout: Rollout, loss: Callable[[PolicyOutput], Tensor], weights: Tensor
) -> Tensor:
    """(S, V) E ∇ loss in the logits.

    `loss` is a sum over the rows of `rollout`, and `weights` (B,) are the rows' probabilities.
    """
    output = policy(rollout)
    parts = (output.logp, output.values, output.entropy, output.full_kl)
    slopes: Sequence[Tensor | None] = torch.autograd.grad(loss(output), parts, allow_unused=True)
    chain = [(p, s) for p, s in zip(parts, slopes, strict=True) if s is not None]
    weighted = torch.stack([(p * s * weights[:, None]).sum() for p, s in chain]).sum()
    return slope(weighted, policy)


def expected_loss_gradient(
    algorithm: Algorithm,
    policy: TabularPolicy,
    rollout: Rollout,
    targets: Targets,
    weights: Tensor,
) -> Tensor:
    """The expected gradient of an algorithm's loss, over rows with the given probabilities."""
    state: State = algorithm.initial_state()
    return expected_gradient(
        policy,
        rollout,
        lambda output: algorithm.loss(output, rollout, targets, state).total,
        weights,
    )


def loss_gradient(
    algorithm: Algorithm, policy: TabularPolicy, rewards: Tensor, baseline: Tensor | None = None
) -> Tensor:
    """E ∇ loss at ratio 1, where each response's targets depend on it alone."""
    rollout = policy.roll_out()
    targets = targets_of(algorithm, rewards, rollout, baseline)
    weights = policy.mdp.probability(policy.logits).detach()
    return expected_loss_gradient(algorithm, policy, rollout, targets, weights)


def group_gradient(
    algorithm: Algorithm, policy: TabularPolicy, rewards: Tensor, size: int
) -> Tensor:
    """E ∇ loss at ratio 1 over all groups of `size` responses to a prompt, for one of them."""
    mdp, everything = policy.mdp, policy.roll_out()
    rows = torch.arange(mdp.per_prompt)
    alone = torch.cartesian_prod(*[rows] * size).view(-1, size)
    members = torch.cat([alone + prompt * mdp.per_prompt for prompt in range(mdp.prompts)])
    chosen = members.flatten()
    groups = torch.arange(len(members)).repeat_interleave(size)
    rollout = replace(everything[chosen], groups=groups)
    targets = targets_of(algorithm, rewards[chosen], rollout)
    given_prompt = mdp.prompts * mdp.probability(policy.logits).detach()
    weights = given_prompt[members].prod(dim=1).repeat_interleave(size) / mdp.prompts
    found = expected_loss_gradient(algorithm, policy, rollout, targets, weights)
    return found / size

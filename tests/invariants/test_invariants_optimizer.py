"""What one optimizer step is, and when there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builders import tiny_actors
from learning import TASK, learn, start
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.hardware import Hardware
from tokencredit.rl.engine import Engine
from tokencredit.rl.world import World


def test_adams_epsilon_stands_outside_the_correction() -> None:
    """First step: lr g / (|g| + ε). TensorFlow 1 has ε / √(1 − β₂) there, 32 times as much."""
    rate, eps, slope = 0.1, 1e-3, 2e-3
    numbers = Optimizer(learning_rate=rate, eps=eps, max_grad_norm=None)
    policy = tiny_actors().policy
    engine = Engine(policy, replace(TASK, optimizer=numbers), World(Hardware()))
    before = policy.value_head.weight.detach().clone()
    for parameter in policy.parameters():
        parameter.grad = torch.full_like(parameter, slope)
    engine.step()
    moved = (before - policy.value_head.weight).flatten().tolist()
    assert moved == pytest.approx([rate * slope / (slope + eps)] * len(moved), rel=1e-4)
    other = rate * slope / (slope + eps / (1 - numbers.beta2) ** 0.5)
    assert moved[0] > 5 * other


def test_a_policy_that_moved_too_far_ends_the_steps_updates() -> None:
    """The first minibatch finds the rollout's own policy, the second one that has moved."""
    actors, updater = start(replace(TASK, kl_stop=1e-9))
    forwards: list[int] = []
    actors.policy.register_forward_hook(lambda *_: forwards.append(1))
    _, (row,) = learn(actors, updater, range(1))
    assert (row["optimizer/steps"], row["ppo/stopped"], len(forwards)) == (1, 1, 2)
    _, (row,) = learn(*start(), range(1))
    assert (row["optimizer/steps"], row["ppo/stopped"]) == (8, 0)

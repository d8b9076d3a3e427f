"""One update of a tiny model, in the pieces that tests of invariance take apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import make_prompts, tiny_actors
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.config import COMPONENTS
from tokencredit.hardware import Hardware
from tokencredit.models.actors import Actors
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.ops import keep, masked_sum
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World
from tokencredit.rollout import Rollout, Targets

ALGORITHMS: list[type[Algorithm]] = [
    kind for kind in COMPONENTS["algorithm"] if issubclass(kind, Algorithm)
]
every_algorithm = pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.__name__)
PROMPTS = [2, 5, 3, 4, 2, 6, 3, 4]
LIMITS = [4, 9, 6, 1, 8, 5, 7, 6]


def small(
    kind: type[Algorithm], rate: float = 1e-3, epochs: int = 1, minibatches: int = 1
) -> Algorithm:
    """The algorithm as it is registered, on 8 responses to 4 prompts."""
    return replace(
        kind(),
        batch_size=8,
        samples_per_prompt=2,
        epochs=epochs,
        minibatches=minibatches,
        optimizer=Optimizer(learning_rate=rate, max_grad_norm=None),
    )


def actors_for(
    algorithm: Algorithm, architecture: str = "llama", sampling: Sampling | None = None
) -> Actors:
    """A tiny policy, with values if the algorithm trains them, beside a reference a little off."""
    actors = tiny_actors(architecture, sampling)
    policy = actors.policy
    policy.computation = replace(policy.computation, uses_values=algorithm.uses_values)
    policy.value_head.requires_grad_(algorithm.uses_values)
    with torch.no_grad():
        for number, parameter in enumerate(policy.model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    policy.train()
    return actors


def rollout_of(actors: Actors, step: int = 0) -> Rollout:
    """Responses of 1 to 9 tokens; two neighbours are a group."""
    prompts = make_prompts(PROMPTS, max_new=LIMITS, min_new=0, seed=step)
    prompts = replace(prompts, groups=torch.arange(8) // 2)
    return actors.roll_out(prompts, ("small", step))


def rewards_of(rollout: Rollout) -> Tensor:
    """Even ids are good, odd ones bad."""
    return keep(1.0 - 2.0 * (rollout.response_ids % 2), rollout.response_mask)


def targets_of(algorithm: Algorithm, rollout: Rollout, rewards: Tensor | None = None) -> Targets:
    """Targets of a first step; the greedy responses are said to have earned a little."""
    rewards = rewards_of(rollout) if rewards is None else rewards
    mean = masked_sum(rewards, rollout.response_mask) * 0.3 + 0.1
    baseline = mean if algorithm.responses_beside() else None
    state = algorithm.initial_state()
    return algorithm.targets(rollout, algorithm.shape(rewards, rollout, state, baseline))


def updater_of(actors: Actors, algorithm: Algorithm, micro_batch: int | None = None) -> Updater:
    world = World(Hardware(micro_batch=micro_batch))
    return Updater(Engine(actors.policy, algorithm, world), algorithm, seed=5)


def update(updater: Updater, rollout: Rollout, targets: Targets) -> dict[str, float]:
    return updater.update(rollout, targets, updater.algorithm.initial_state(), 0)


def weights(actors: Actors) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in actors.policy.named_parameters()}


def gradients(
    actors: Actors,
    algorithm: Algorithm,
    rollout: Rollout,
    targets: Targets,
    micro_batch: int | None = None,
) -> Tensor:
    """The gradient of the first optimizer step, all parameters in one row; nothing is moved."""
    updater = updater_of(actors, algorithm, micro_batch)
    found: list[Tensor] = []
    parameters = list(actors.policy.parameters())

    def spy(_: str | None) -> float:
        if not found:
            parts = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
            found.append(torch.cat([part.flatten() for part in parts]))
        updater.engine.discard()
        return 0.0

    updater.engine.step = spy  # type: ignore[method-assign, assignment]
    update(updater, rollout, targets)
    return found[0]


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ as a share of ‖b‖."""
    return float((a - b).norm() / b.norm())

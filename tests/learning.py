"""A small RL loop on tiny models, for the tests of what happens inside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from builders import make_prompts, tiny_actors
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.engine import Engine
from tokencredit.ops import k1, keep, masked_sum
from tokencredit.rollout import Rollout, Targets
from tokencredit.stages.actors import Actors

FAST = Optimizer(learning_rate=3e-3, weight_decay=0.01)
TASK = PPO(
    batch_size=8, epochs=2, minibatches=4, optimizer=FAST, kl=KLPenalty(coef=0.3, horizon=40.0)
)


def start(optimizer: Optimizer = FAST, seed: int = 0) -> tuple[Actors, Engine]:
    actors = tiny_actors(seed=seed)
    return actors, Engine(actors.policy, optimizer, on_cpu=True, seed=5)


def rollout_at(actors: Actors, step: int) -> Rollout:
    prompts = make_prompts([2, 5, 3, 4, 2, 6, 3, 4], max_new=[4, 9, 6, 3, 8, 5, 7, 6], seed=step)
    return actors.roll_out(prompts, ("engine", step))


def targets_at(algorithm: PPO, rollout: Rollout, coef: float) -> Targets:
    """Even ids are good, odd ones bad."""
    rewards = keep(1.0 - 2.0 * (rollout.response_ids % 2), rollout.response_mask)
    return algorithm.targets(rollout, algorithm.shape(rewards, rollout, coef))


def learn(
    actors: Actors, engine: Engine, steps: range, coef: float = 0.3, algorithm: PPO = TASK
) -> tuple[float, list[Mapping[str, float]]]:
    """Some steps of the RL loop; the coefficient after them, and the metrics."""
    log = []
    actors.policy.train()
    for step in steps:
        rollout = rollout_at(actors, step)
        targets = targets_at(algorithm, rollout, coef)
        log.append(engine.update(algorithm, rollout, targets, step))
        kl = masked_sum(k1(rollout.logp, rollout.ref_logp), rollout.response_mask).mean()
        coef = algorithm.kl.next_coef(coef, float(kl), len(rollout))
    return coef, log


def weights(engine: Engine) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in engine.module().named_parameters()}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

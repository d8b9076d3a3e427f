"""A small RL loop on tiny models, for the tests of what happens inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from builders import make_prompts, tiny_actors
from tokencredit.algorithms.algorithm import Algorithm, State
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.hardware import Hardware
from tokencredit.models.actors import Actors
from tokencredit.ops import k1, keep, masked_sum
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World
from tokencredit.rollout import Rollout, Targets

FAST = Optimizer(learning_rate=3e-3, weight_decay=0.01)
TASK = PPO(
    batch_size=8, epochs=2, minibatches=4, optimizer=FAST, kl=KLPenalty(coef=0.3, horizon=40.0)
)


def task(optimizer: Optimizer) -> PPO:
    """The task with another optimizer."""
    return replace(TASK, optimizer=optimizer)


def start(
    algorithm: Algorithm = TASK, seed: int = 0, micro_batch: int | None = None
) -> tuple[Actors, Updater]:
    actors = tiny_actors(seed=seed)
    engine = Engine(actors.policy, algorithm, World(Hardware(micro_batch=micro_batch)))
    return actors, Updater(engine, algorithm, seed=5)


def rollout_at(actors: Actors, step: int) -> Rollout:
    prompts = make_prompts([2, 5, 3, 4, 2, 6, 3, 4], max_new=[4, 9, 6, 3, 8, 5, 7, 6], seed=step)
    return actors.roll_out(prompts, ("engine", step))


def targets_at(algorithm: Algorithm, rollout: Rollout, state: State) -> Targets:
    """Even ids are good, odd ones bad."""
    rewards = keep(1.0 - 2.0 * (rollout.response_ids % 2), rollout.response_mask)
    return algorithm.targets(rollout, algorithm.shape(rewards, rollout, state))


def learn(
    actors: Actors, updater: Updater, steps: range, state: State | None = None
) -> tuple[State, list[Mapping[str, float]]]:
    """Some steps of the RL loop; the algorithm's state after them, and the metrics."""
    log: list[Mapping[str, float]] = []
    algorithm = updater.algorithm
    state = algorithm.initial_state() if state is None else state
    actors.policy.train()
    for step in steps:
        rollout = rollout_at(actors, step)
        targets = targets_at(algorithm, rollout, state)
        log.append(updater.update(rollout, targets, state, step))
        kl = masked_sum(k1(rollout.logp, rollout.ref_logp), rollout.response_mask).mean()
        state = algorithm.next_state(state, {**log[-1], "kl/k1": float(kl)}, len(rollout))
    return state, log


def weights(engine: Engine) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in engine.module().named_parameters()}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

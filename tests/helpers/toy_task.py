"""A task with a known optimum, and the RL loop on it: the real engine on a table of logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from token_mdp import FLOAT, TabularPolicy, TokenMDP
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.kl import Controller
from tokencredit.algorithms.optimizer import Optimizer, Schedule
from tokencredit.hardware import Hardware
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rl.engine import Engine
from tokencredit.rl.metrics import describe
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Rollout, Targets


class Toy:
    """Two prompts with a wanted token each; a response scores 1 for each wanted token in it.

    Id 0 ends a response, so ending early is a mistake, too. 64 responses a step; whatever else the
    algorithm says is its own. The best expected score is 3.
    """

    optimum = 3.0

    def __init__(self) -> None:
        self.mdp = TokenMDP(vocabulary=4, length=3, eos=0, prompts=2)
        wanted = (self.mdp.ids == self.mdp.prompt[:, None] + 1) & self.mdp.mask
        self.scores = wanted.sum(dim=1).to(FLOAT)
        self.start = self.mdp.random(11, scale=0.3)

    def policy(self) -> TabularPolicy:
        return TabularPolicy(self.mdp, self.start, torch.zeros(len(self.start), dtype=FLOAT))

    def score(self, policy: TabularPolicy) -> float:
        """The exact expected score."""
        rewards = self.mdp.last_reward(self.scores)
        return float(self.mdp.expected_return(policy.logits.detach(), rewards))

    def evidence(self) -> Tensor:
        """(N, T) 1 for each wanted token, and a little for the others."""
        return ((self.mdp.ids == self.mdp.prompt[:, None] + 1) + 0.1) * self.mdp.mask


def fitted(algorithm: Algorithm, steps: int, *, coef: float = 0.0, rate: float = 0.2) -> Algorithm:
    """The algorithm as it is registered, with the toy's numbers in place of a language model's."""
    return replace(
        algorithm,
        batch_size=64,
        samples_per_prompt=max(4, algorithm.samples_per_prompt),
        epochs=min(2, algorithm.epochs),
        minibatches=min(2, algorithm.minibatches),
        optimizer=Optimizer(
            learning_rate=rate, max_grad_norm=None, schedule=Schedule.linear, schedule_steps=steps
        ),
        kl=replace(algorithm.kl, coef=coef, controller=Controller.fixed),
    )


@dataclass(slots=True, kw_only=True)
class Loop:
    """Steps of the RL loop as the learner takes them."""

    toy: Toy
    algorithm: Algorithm
    policy: TabularPolicy
    scheme: RewardScheme
    spoil: Callable[[Targets], Targets] = lambda targets: targets
    """A mutation of the targets."""

    def run(self, steps: int) -> list[dict[str, float]]:
        """The metrics of each step."""
        self.policy.state_values.requires_grad_(self.algorithm.uses_values)
        engine = Engine(self.policy, self.algorithm, World(Hardware()))  # type: ignore[arg-type]
        updater = Updater(engine, self.algorithm, seed=0)
        state, log = self.algorithm.initial_state(), []
        for step in range(steps):
            rollout, judgement, greedy = self.said(step)
            rewards = self.scheme.token_rewards(rollout, judgement)
            baseline = greedy if self.algorithm.responses_beside() else None
            shaped = self.algorithm.shape(rewards, rollout, state, baseline)
            targets = self.spoil(self.algorithm.targets(rollout, shaped))
            updates = updater.update(rollout, targets, state, step)
            measured = {**describe(rollout, judgement, rewards, targets), **updates}
            state = self.algorithm.next_state(state, measured, len(rollout))
            log.append({**measured, **state})
        return log

    def said(self, step: int) -> tuple[Rollout, Judgement, Tensor]:
        """The responses of a step, their judgement, and each prompt's greedy total."""
        mdp, every = self.toy.mdp, self.algorithm.samples_per_prompt
        groups = torch.arange(self.algorithm.batch_size) // every
        prompts = groups % mdp.prompts
        drawn = mdp.sample(self.policy.logits, prompts, "toy", step)
        rollout, judgement = self.judged(drawn)
        greedy = self.scheme.token_rewards(*self.judged(mdp.greedy(self.policy.logits)))
        return replace(rollout, groups=groups), judgement, greedy.sum(dim=1)[prompts]

    def judged(self, chosen: Tensor) -> tuple[Rollout, Judgement]:
        """Some of all responses, with score and evidence."""
        scores, evidence = self.toy.scores[chosen], self.toy.evidence()[chosen]
        return self.policy.roll_out()[chosen], Judgement(scores=scores, evidence=evidence)

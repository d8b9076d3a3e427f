"""Every registered policy algorithm solves a task whose optimum is known exactly."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from token_mdp import TabularPolicy
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.losses import Aggregation
from tokencredit.algorithms.remax import ReMax
from tokencredit.config import COMPONENTS
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.rollout import Targets
from toy_task import Loop, Toy, fitted

STEPS = 60
ALGORITHMS: list[type[Algorithm]] = [
    kind for kind in COMPONENTS["algorithm"] if issubclass(kind, Algorithm)
]
every_algorithm = pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.__name__)


def with_fields(algorithm: Algorithm, **numbers: Any) -> Algorithm:
    """The algorithm with those of the numbers that it has."""
    known = {item.name for item in fields(algorithm)}
    return replace(algorithm, **{name: x for name, x in numbers.items() if name in known})


def learned(loop: Loop, steps: int) -> float:
    """The share of the best expected score that is reached."""
    loop.run(steps)
    return loop.toy.score(loop.policy) / loop.toy.optimum


@every_algorithm
def test_reaches_95_percent_of_the_optimum(kind: type[Algorithm]) -> None:
    toy = Toy()
    policy, algorithm = toy.policy(), fitted(kind(), STEPS)
    assert toy.score(policy) < 0.3 * toy.optimum
    assert learned(Loop(toy=toy, algorithm=algorithm, policy=policy, scheme=Sparse()), STEPS) > 0.95


@every_algorithm
def test_reaches_95_percent_of_the_optimum_with_token_rewards(kind: type[Algorithm]) -> None:
    toy = Toy()
    algorithm = fitted(kind(), STEPS)
    loop = Loop(toy=toy, algorithm=algorithm, policy=toy.policy(), scheme=Redistribute())
    assert learned(loop, STEPS) > 0.95


def turned(targets: Targets) -> Targets:
    return replace(targets, advantages=-targets.advantages)


def of_another_row(targets: Targets) -> Targets:
    return replace(targets, advantages=targets.advantages.roll(1, dims=0))


def of_an_earlier_token(targets: Targets) -> Targets:
    late = targets.advantages.roll(1, dims=1)
    late[:, 0] = 0.0
    return replace(targets, advantages=late)


@every_algorithm
@pytest.mark.parametrize("spoil", [turned, of_another_row, of_an_earlier_token])
def test_does_not_with_advantages_of_something_else(kind: type[Algorithm], spoil: Any) -> None:
    toy, scheme = Toy(), Sparse()
    algorithm = fitted(kind(), STEPS)
    loop = Loop(toy=toy, algorithm=algorithm, policy=toy.policy(), scheme=scheme, spoil=spoil)
    assert learned(loop, 30) < 0.9


@every_algorithm
def test_same_numbers_when_run_again(kind: type[Algorithm]) -> None:
    toy, ends, logs = Toy(), list[TabularPolicy](), []
    for _ in range(2):
        ends.append(toy.policy())
        loop = Loop(
            toy=toy, algorithm=fitted(kind(), STEPS), policy=ends[-1], scheme=Redistribute()
        )
        logs.append(loop.run(3))
    assert logs[0] == logs[1] and torch.equal(ends[0].logits, ends[1].logits)


@every_algorithm
def test_goes_95_percent_of_the_way_to_the_regularised_optimum(kind: type[Algorithm]) -> None:
    """With the penalty in the reward the best policy is π_ref exp(score / β), and all of it is
    known. GRPO goes there without its divisors, which are not part of that objective; ReMax not
    quite, for as published its tokens pay for their own KL alone."""
    toy, beta, steps = Toy(), 0.5, 80
    mdp, rewards, policy = toy.mdp, toy.mdp.last_reward(toy.scores), toy.policy()
    best = mdp.optimum(toy.start, toy.scores, beta)

    def objective(logits: torch.Tensor) -> float:
        return float(mdp.regularised(logits.detach(), toy.start, rewards, beta))

    algorithm = with_fields(
        fitted(kind(), steps, coef=beta, rate=0.1),
        divide_by_sd=False,
        kl_loss_coef=0.0,
        aggregation=Aggregation.token_mean,
    )
    Loop(toy=toy, algorithm=algorithm, policy=policy, scheme=Sparse()).run(steps)
    start, end = objective(toy.start), objective(best)
    share = (objective(policy.logits) - start) / (end - start)
    assert (0.9 if kind is ReMax else 0.95) < share < 1
    assert toy.score(policy) < 0.9 * toy.optimum  # the penalty holds it back

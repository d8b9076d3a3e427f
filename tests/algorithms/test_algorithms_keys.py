"""No key of an algorithm is dead: each changes something that can be seen, or says who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

from batches import MEASURED, grouped_rollout, output_of, rewards_of, step
from tokencredit.algorithms.advantages import GroupBaseline, Whiten
from tokencredit.algorithms.algorithm import Algorithm, Decision
from tokencredit.algorithms.grpo import GRPO
from tokencredit.algorithms.kl import Controller, Estimator, KLPenalty
from tokencredit.algorithms.losses import Aggregation
from tokencredit.algorithms.optimizer import Optimizer, Schedule
from tokencredit.algorithms.ppo_penalty import Direction
from tokencredit.algorithms.reinforce import Baseline, Reinforce
from tokencredit.algorithms.remax import ReMax
from tokencredit.algorithms.scores import Normalise
from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError

KINDS: list[type[Algorithm]] = [k for k in COMPONENTS["algorithm"] if issubclass(k, Algorithm)]
ELSEWHERE = {
    "batch_size": "how many prompts a step draws",
    "samples_per_prompt": "how often each is answered",
    "epochs": "passes of the update",
    "minibatches": "optimizer steps of a pass",
    "normalise_samples": "responses that are scored before the first step",
    "value_warmup": "rollouts before the first step",
    "optimizer.eps": "Adam",
    "optimizer.beta1": "Adam",
    "optimizer.beta2": "Adam",
    "optimizer.weight_decay": "Adam",
    "optimizer.max_grad_norm": "the engine's clipping",
    "optimizer.clip_norm": "the engine's clipping",
    "value_optimizer.beta1": "Adam, by way of `optimizers`",
    "value_optimizer.beta2": "Adam, by way of `optimizers`",
    "value_optimizer.weight_decay": "Adam, by way of `optimizers`",
}
"""Keys that no formula of an algorithm reads, and who does."""
OTHER: dict[str, Any] = {
    "normalise": Normalise.return_std,
    "score_clip": 0.5,
    "reward_clip": 0.1,
    "missing_eos_penalty": 1.0,
    "kl.estimator": Estimator.k3,
    "kl.coef": 0.7,
    "kl.controller": Controller.fixed,
    "kl.target": 1.4,
    "kl.horizon": 100.0,
    "gamma": 0.9,
    "whiten": Whiten.biased,
    "aggregation": [Aggregation.token_mean, Aggregation.sequence_mean],
    "entropy_coef": 0.1,
    "ratio_threshold": 2.0,
    "kl_stop": 0.001,
    "optimizer.learning_rate": 2.0,
    "optimizer.warmup_steps": 5,
    "optimizer.warmup_fraction": 0.2,
    "optimizer.schedule": Schedule.linear,
    "optimizer.floor": 0.5,
    "optimizer.schedule_steps": 40,
    "lam": 0.5,
    "value_clip": 0.01,
    "value_coef": 0.7,
    "value_optimizer.learning_rate": 2.0,
    "value_optimizer.warmup_steps": 5,
    "value_optimizer.warmup_fraction": 0.2,
    "value_optimizer.schedule": Schedule.constant,
    "value_optimizer.floor": 0.5,
    "clip": 0.05,
    "penalty.direction": Direction.old_new,
    "penalty.coef": 3.0,
    "penalty.target": 1.0,
    "baseline": Baseline.none,
    "baseline_decay": 0.5,
    "group_baseline": GroupBaseline.total,
    "divide_by_sd": False,
    "kl_loss_coef": 0.5,
    "return_clip": 0.1,
}
"""Another value of every other key."""
REFUSED: dict[type[Algorithm], tuple[str, ...]] = {
    ReMax: ("reward_clip",),
    GRPO: ("group_baseline",),
}
"""Keys that fit no other value beside the others' defaults; tests of their own follow them."""


def keys(node: object, prefix: str = "") -> Iterator[str]:
    for item in fields(node):  # type: ignore[arg-type]
        value = getattr(node, item.name)
        if is_dataclass(value):
            yield from keys(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def changed(node: Any, key: str, value: object) -> Any:
    name, _, rest = key.partition(".")
    return replace(node, **{name: changed(getattr(node, name), rest, value) if rest else value})


def base(kind: type[Algorithm]) -> Algorithm:
    """Settings under which every key has work to do."""
    schedule = Optimizer(learning_rate=1.0, schedule=Schedule.cosine, schedule_steps=50, floor=0.1)
    algorithm: Algorithm = kind(optimizer=schedule, kl=KLPenalty())
    if isinstance(algorithm, Reinforce):
        algorithm = replace(algorithm, baseline=Baseline.running)
    return algorithm


def observed(algorithm: Algorithm) -> dict[str, Any]:
    """Everything an algorithm computes for one made-up step."""
    rollout = grouped_rollout([4, 1, 3, 6, 2, 5], [7, 7, 3, 3, 3, 7])
    output = output_of(rollout)
    targets, loss = step(algorithm, rollout, output)
    state = algorithm.initial_state()
    shaped = algorithm.shape(rewards_of(rollout), rollout, state, torch.ones(6))
    later = state
    for measured in (MEASURED, {**MEASURED, "reward/return": 2.0}):
        later = algorithm.next_state(later, measured, 16)
    means = [
        {"ppo/approx_kl": kl, "ppo/ratio_mean": r} for kl in (0, 0.1) for r in (1.0, 5.0, 11.0)
    ]
    return {
        "scores": algorithm.paid_scores(torch.tensor([2.0, -3.0]), state).tolist(),
        "rewards": shaped.total.tolist(),
        "advantages": targets.advantages.tolist(),
        "returns": targets.returns.tolist(),
        "total": loss.total.item() / algorithm.denominator(rollout.response_mask),
        "sums": {name: value.item() for name, value in loss.sums.items()},
        "verdicts": [algorithm.decide(m) for m in means],
        "state": [state, later],
        "rates": {n: [o.rate_at(s) for s in range(50)] for n, o in algorithm.optimizers().items()},
    }


CASES = [(kind, key) for kind in KINDS for key in keys(kind())]
every_key = pytest.mark.parametrize(("kind", "key"), CASES, ids=lambda x: getattr(x, "__name__", x))


@every_key
def test_field_B19_every_key_changes_something(kind: type[Algorithm], key: str) -> None:
    if key in ELSEWHERE:
        assert key not in OTHER
        return
    algorithm = base(kind)
    value = OTHER[key]
    if isinstance(value, list):  # whichever it is not
        (value,) = (v for v in value if v is not getattr(algorithm, key))
    if key in REFUSED.get(kind, ()):
        with pytest.raises(UserError, match=rf"algorithm\.{key} = "):
            changed(algorithm, key, value)
        return
    assert observed(changed(algorithm, key, value)) != observed(algorithm)


def test_field_B19_both_lists_name_keys_that_exist() -> None:
    named = {key for kind in KINDS for key in keys(kind())}
    assert {*OTHER, *ELSEWHERE} == named


def test_field_B19_a_dead_key_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Algorithm, "decide", lambda *_: Decision.take)
    for kind in KINDS:
        algorithm = base(kind)
        assert observed(replace(algorithm, kl_stop=0.001)) == observed(algorithm)


def test_value_optimizers_numbers_arrive() -> None:
    algorithm = changed(base(KINDS[0]), "value_optimizer.beta1", 0.5)
    assert algorithm.optimizers()["value"].beta1 == 0.5
    assert algorithm.optimizers()["policy"].beta1 == 0.9

"""Optimizer steps: how many, how long, and when not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from builders import make_prompts, tiny_actors
from learning import TASK, equal, learn, rollout_at, start, targets_at, task, weights
from tokencredit.algorithms.algorithm import State
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Optimizer, Schedule
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.ops import keep
from tokencredit.rollout import Rollout, Targets
from tokencredit.streams import permutation, stream_key

STATE: State = {"kl/coef": 0.3}


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (1, 8), (3, 2), (4, 3)])
def test_field_B17_optimizer_steps_are_epochs_times_minibatches(
    epochs: int, minibatches: int
) -> None:
    algorithm = replace(TASK, epochs=epochs, minibatches=minibatches, ratio_threshold=None)
    actors, updater = start(algorithm)
    _, log = learn(actors, updater, range(4))
    assert [row["optimizer/steps"] for row in log] == [epochs * minibatches] * 4
    (state,) = {int(s["step"]) for s in updater.engine.optimizer.state.values()}
    assert state == 4 * epochs * minibatches


def test_field_B11_first_ratio_is_1_and_stays_1_without_learning() -> None:
    still = replace(task(Optimizer(learning_rate=0.0)), minibatches=8)
    actors, updater = start(still)
    before = weights(updater.engine)
    _, log = learn(actors, updater, range(2))
    for row in log:
        assert row["ppo/ratio_max_dev"] < 1e-5
        assert abs(row["ppo/ratio_mean"] - 1) < 1e-5 and row["ppo/clip_fraction"] == 0
        assert abs(row["ppo/approx_kl"]) < 1e-9
    assert equal(before, weights(updater.engine))
    actors, updater = start()
    _, log = learn(actors, updater, range(2))
    assert all(row["ppo/ratio_max_dev"] < 1e-5 for row in log)  # measured before the first step
    assert all(row["ppo/approx_kl"] > 1e-5 for row in log)


def test_field_B11_dropout_would_be_seen() -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    actors.policy.train()
    for module in actors.policy.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    assert updater.update(rollout, targets, STATE, 0)["ppo/ratio_max_dev"] > 1e-3


def test_gradient_of_the_first_step_is_that_of_the_token_mean() -> None:
    still = Optimizer(learning_rate=0.0, max_grad_norm=None)
    whole = replace(task(still), epochs=1, minibatches=1)
    actors, updater = start(whole)
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    row = updater.update(rollout, targets, STATE, 0)
    loss = (
        whole.loss(actors.policy(rollout), rollout, targets, STATE).total
        / rollout.response_mask.sum()
    )
    gradients = torch.autograd.grad(loss, list(actors.policy.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert row["optimizer/grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_field_B19_clipping_really_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1e-3
    free = replace(task(Optimizer(learning_rate=1e-3, max_grad_norm=limit)), ratio_threshold=None)
    actors, updater = start(free)
    norms: list[float] = []
    step = updater.engine.optimizer.step

    def measured() -> None:
        gradients = [p.grad for p in actors.policy.parameters() if p.grad is not None]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        step()

    monkeypatch.setattr(updater.engine.optimizer, "step", measured)
    _, (row,) = learn(actors, updater, range(1))
    assert len(norms) == 8 and max(norms) <= limit * (1 + 1e-4)
    assert row["optimizer/grad_norm"] > 10 * limit  # logged before clipping
    actors, updater = start(
        replace(free, optimizer=Optimizer(learning_rate=1e-3, max_grad_norm=None))
    )
    step = updater.engine.optimizer.step
    monkeypatch.setattr(updater.engine.optimizer, "step", measured)
    norms.clear()
    learn(actors, updater, range(1))
    assert max(norms) > 10 * limit


def test_learning_rate_follows_the_schedule_of_rl_steps() -> None:
    optimizer = Optimizer(
        learning_rate=1.0e-3, warmup_steps=2, schedule=Schedule.linear, schedule_steps=4
    )
    actors, updater = start(task(optimizer))
    _, log = learn(actors, updater, range(4))
    rates = [row["optimizer/learning_rate"] for row in log]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


def test_vectors_are_not_decayed() -> None:
    actors, updater = start(task(Optimizer(learning_rate=0.1, weight_decay=0.5)))
    for parameter in actors.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(updater.engine)
    updater.engine.optimizer.step()
    for name, after in weights(updater.engine).items():
        factor = 1.0 if after.ndim < 2 else 1 - 0.1 * 0.5
        assert torch.allclose(after, factor * before[name]), name


def test_a_rollout_too_far_away_is_skipped_and_counted() -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    before = weights(updater.engine)
    far = replace(rollout, logp=keep(rollout.logp - math.log(12), rollout.response_mask))
    row = updater.update(far, targets, STATE, 0)
    assert row["ppo/skipped"] == 8 and row["optimizer/steps"] == 0
    assert row["ppo/ratio_max_dev"] == pytest.approx(11, rel=1e-3)
    assert equal(before, weights(updater.engine)) and not updater.engine.optimizer.state
    assert all(math.isfinite(value) for value in row.values())
    near = replace(rollout, logp=keep(rollout.logp - math.log(8), rollout.response_mask))
    actors, updater = start(replace(TASK, epochs=1))
    assert updater.update(near, targets, STATE, 0)["ppo/skipped"] == 0


def test_a_ratio_that_overflows_is_skipped_too() -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    far = replace(rollout, logp=keep(rollout.logp - 200, rollout.response_mask))
    row = updater.update(far, targets, STATE, 0)
    assert row["ppo/skipped"] == 8
    assert all(math.isfinite(value) for name, value in row.items() if name != "ppo/ratio_max_dev")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_field_B21_a_loss_that_is_not_finite_stops_the_run(bad: float) -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    before = weights(updater.engine)
    broken = replace(targets, returns=torch.where(rollout.response_mask, bad, 0.0))
    with pytest.raises(UserError) as caught:
        updater.update(rollout, broken, STATE, 17)
    said = str(caught.value)
    assert "step 17" in said and "the loss is" in said
    assert "algorithm.optimizer.learning_rate" in said
    assert equal(before, weights(updater.engine))


def test_field_B21_a_gradient_that_is_not_finite_stops_the_run() -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    before = weights(updater.engine)
    actors.policy.value_head.weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(UserError, match=r"step 3: the gradient norm is nan.*learning_rate"):
        updater.update(rollout, targets_at(TASK, rollout, STATE), STATE, 3)
    assert equal(before, weights(updater.engine))


def test_minibatches_are_shuffled_by_seed_step_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    seen: list[list[int]] = []
    loss = PPO.loss

    def spy(self: PPO, output: object, part: Rollout, targets: Targets, state: State) -> object:
        seen.append(part.rows.tolist())
        return loss(self, output, part, targets, state)  # type: ignore[arg-type]

    monkeypatch.setattr(PPO, "loss", spy)
    updater.update(rollout, targets_at(TASK, rollout, STATE), STATE, 9)
    for epoch in range(2):
        order = permutation(stream_key(5, "minibatch", 9, epoch), 8)
        for number, rows in enumerate(torch.from_numpy(order).tensor_split(4)):
            assert sorted(seen[4 * epoch + number]) == sorted(rollout.rows[rows].tolist())
    assert seen[:4] != seen[4:]


@pytest.mark.slow
def test_learns_to_say_even_tokens() -> None:
    """The whole loop on a task with a known optimum: the share of even ids must rise."""
    free = replace(task(Optimizer(learning_rate=3e-3)), kl=KLPenalty(coef=0.0))
    actors, updater = start(free)
    prompts = make_prompts([3] * 32, max_new=6, min_new=6)

    def share() -> float:
        rollout = actors.roll_out(prompts, ("measure",))
        even = (rollout.response_ids % 2 == 0) & rollout.response_mask
        return float(even.sum() / rollout.response_mask.sum())

    before = share()
    learn(actors, updater, range(50))
    assert share() > max(0.75, before + 0.15)


def test_rollout_of_another_temperature_is_not_the_trained_distribution() -> None:
    """A policy that forgets the temperature sees a first ratio far from 1."""
    hot = tiny_actors(sampling=Sampling(temperature=0.7))
    rollout = rollout_at(hot, 0)
    _, updater = start(replace(TASK, ratio_threshold=None))
    row = updater.update(rollout, targets_at(TASK, rollout, STATE), STATE, 0)
    assert row["ppo/ratio_max_dev"] > 1e-2

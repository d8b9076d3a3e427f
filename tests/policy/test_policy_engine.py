"""Optimizer steps: how many, how long, when not; and their state on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import make_prompts, tiny_actors
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Course, Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.engine import OPTIMIZER, WEIGHTS, Engine
from tokencredit.errors import UserError
from tokencredit.models.sampling import Sampling
from tokencredit.ops import k1, keep, masked_sum
from tokencredit.rollout import Rollout, Targets
from tokencredit.stages.actors import Actors
from tokencredit.stages.checkpoints import Checkpoints, Progress
from tokencredit.streams import permutation, stream_key

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


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (1, 8), (3, 2), (4, 3)])
def test_field_B17_optimizer_steps_are_epochs_times_minibatches(epochs: int, minibatches: int) -> None:
    actors, engine = start()
    algorithm = replace(TASK, epochs=epochs, minibatches=minibatches)
    _, log = learn(actors, engine, range(4), algorithm=algorithm)
    assert [row["optimizer/steps"] for row in log] == [epochs * minibatches] * 4
    (state,) = {int(s["step"]) for s in engine.optimizer.state.values()}
    assert state == 4 * epochs * minibatches


def test_field_B11_first_ratio_is_1_and_stays_1_without_learning() -> None:
    actors, engine = start(Optimizer(learning_rate=0.0))
    before = weights(engine)
    _, log = learn(actors, engine, range(2), algorithm=replace(TASK, minibatches=8))
    for row in log:
        assert row["ppo/ratio_max_dev"] < 1e-5
        assert abs(row["ppo/ratio_mean"] - 1) < 1e-5 and row["ppo/clip_fraction"] == 0
        assert abs(row["ppo/approx_kl"]) < 1e-9
    assert equal(before, weights(engine))
    actors, engine = start()
    _, log = learn(actors, engine, range(2))
    assert all(row["ppo/ratio_max_dev"] < 1e-5 for row in log)  # measured before the first step
    assert all(row["ppo/approx_kl"] > 1e-5 for row in log)


def test_field_B11_dropout_would_be_seen() -> None:
    actors, engine = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, 0.3)
    actors.policy.train()
    for module in actors.policy.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    assert engine.update(TASK, rollout, targets, 0)["ppo/ratio_max_dev"] > 1e-3


def test_gradient_of_the_first_step_is_that_of_the_token_mean() -> None:
    actors, engine = start(Optimizer(learning_rate=0.0, max_grad_norm=None))
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, 0.3)
    whole = replace(TASK, epochs=1, minibatches=1)
    row = engine.update(whole, rollout, targets, 0)
    loss = whole.loss(actors.policy(rollout), rollout, targets).total / rollout.response_mask.sum()
    gradients = torch.autograd.grad(loss, list(actors.policy.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert row["optimizer/grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_field_B19_clipping_really_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1e-3
    actors, engine = start(Optimizer(learning_rate=1e-3, max_grad_norm=limit))
    norms: list[float] = []
    step = engine.optimizer.step

    def measured() -> None:
        gradients = [p.grad for p in actors.policy.parameters() if p.grad is not None]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        step()

    monkeypatch.setattr(engine.optimizer, "step", measured)
    _, (row,) = learn(actors, engine, range(1))
    assert len(norms) == 8 and max(norms) <= limit * (1 + 1e-4)
    assert row["optimizer/grad_norm"] > 10 * limit  # logged before clipping
    actors, engine = start(Optimizer(learning_rate=1e-3, max_grad_norm=None))
    step = engine.optimizer.step
    monkeypatch.setattr(engine.optimizer, "step", measured)
    norms.clear()
    learn(actors, engine, range(1))
    assert max(norms) > 10 * limit


def test_learning_rate_follows_the_schedule_of_rl_steps() -> None:
    optimizer = Optimizer(
        learning_rate=1.0e-3, warmup_steps=2, course=Course.linear, schedule_steps=4
    )
    actors, engine = start(optimizer)
    _, log = learn(actors, engine, range(4))
    rates = [row["optimizer/learning_rate"] for row in log]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


def test_vectors_are_not_decayed() -> None:
    actors, engine = start(Optimizer(learning_rate=0.1, weight_decay=0.5))
    for parameter in actors.policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(engine)
    engine.optimizer.step()
    for name, after in weights(engine).items():
        factor = 1.0 if after.ndim < 2 else 1 - 0.1 * 0.5
        assert torch.allclose(after, factor * before[name]), name


def test_a_rollout_too_far_away_is_skipped_and_counted() -> None:
    actors, engine = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, 0.3)
    before = weights(engine)
    far = replace(rollout, logp=keep(rollout.logp - math.log(12), rollout.response_mask))
    row = engine.update(TASK, far, targets, 0)
    assert row["ppo/skipped"] == 8 and row["optimizer/steps"] == 0
    assert row["ppo/ratio_max_dev"] == pytest.approx(11, rel=1e-3)
    assert equal(before, weights(engine)) and not engine.optimizer.state
    assert all(math.isfinite(value) for value in row.values())
    near = replace(rollout, logp=keep(rollout.logp - math.log(8), rollout.response_mask))
    assert engine.update(replace(TASK, epochs=1), near, targets, 0)["ppo/skipped"] == 0


def test_a_ratio_that_overflows_is_skipped_too() -> None:
    actors, engine = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, 0.3)
    far = replace(rollout, logp=keep(rollout.logp - 200, rollout.response_mask))
    row = engine.update(TASK, far, targets, 0)
    assert row["ppo/skipped"] == 8
    assert all(math.isfinite(value) for name, value in row.items() if name != "ppo/ratio_max_dev")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_field_B21_a_loss_that_is_not_finite_stops_the_run(bad: float) -> None:
    actors, engine = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, 0.3)
    before = weights(engine)
    broken = replace(targets, returns=torch.where(rollout.response_mask, bad, 0.0))
    with pytest.raises(UserError) as caught:
        engine.update(TASK, rollout, broken, 17)
    said = str(caught.value)
    assert "step 17" in said and "the loss is" in said
    assert "algorithm.optimizer.learning_rate" in said
    assert equal(before, weights(engine))


def test_field_B21_a_gradient_that_is_not_finite_stops_the_run() -> None:
    actors, engine = start()
    rollout = rollout_at(actors, 0)
    before = weights(engine)
    actors.policy.value_head.weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(UserError, match=r"step 3: the gradient norm is nan.*learning_rate"):
        engine.update(TASK, rollout, targets_at(TASK, rollout, 0.3), 3)
    assert equal(before, weights(engine))


def test_minibatches_are_shuffled_by_seed_step_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    actors, engine = start()
    rollout = rollout_at(actors, 0)
    seen: list[list[int]] = []
    loss = PPO.loss

    def spy(self: PPO, output: object, part: Rollout, targets: Targets) -> object:
        seen.append(part.rows.tolist())
        return loss(self, output, part, targets)  # type: ignore[arg-type]

    monkeypatch.setattr(PPO, "loss", spy)
    engine.update(TASK, rollout, targets_at(TASK, rollout, 0.3), 9)
    for epoch in range(2):
        order = permutation(stream_key(5, "minibatch", 9, epoch), 8)
        found = [row for part in seen[4 * epoch : 4 * epoch + 4] for row in part]
        assert found == rollout.rows[torch.from_numpy(order)].tolist()
    assert seen[:4] != seen[4:]


def checkpoint(folder: Path, engine: Engine, step: int, coef: float) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    checkpoints.save(engine, Progress(step, coef, {"metrics.jsonl": 123}))
    return checkpoints


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_field_B32_a_resumed_run_is_the_run(tmp_path: Path, cut: int) -> None:
    actors, engine = start()
    coef, log = learn(actors, engine, range(5))
    first, first_engine = start()
    middle, first_log = learn(first, first_engine, range(cut))
    checkpoints = checkpoint(tmp_path, first_engine, cut, middle)
    resumed, resumed_engine = start(seed=3)  # other weights, to be replaced
    resumed.reference = first.reference
    newest = checkpoints.newest()
    assert newest is not None
    progress = Checkpoints.progress(newest)
    assert (progress.next_step, progress.offsets) == (cut, {"metrics.jsonl": 123})
    resumed_engine.load(newest)
    last, rest = learn(resumed, resumed_engine, range(cut, 5), progress.kl_coef)
    assert first_log + rest == log
    assert equal(weights(engine), weights(resumed_engine))
    assert last == coef != 0.3
    states = [list(e.optimizer.state.values()) for e in (engine, resumed_engine)]
    for a, b in zip(*states, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("forgotten", ["optimizer", "coefficient", "step"])
def test_field_B33_a_forgotten_part_would_be_seen(tmp_path: Path, forgotten: str) -> None:
    actors, engine = start()
    _, log = learn(actors, engine, range(4))
    first, first_engine = start()
    coef, _ = learn(first, first_engine, range(2))
    folder = checkpoint(tmp_path, first_engine, 2, coef).newest()
    assert folder is not None
    resumed, resumed_engine = start()
    fresh = resumed_engine.optimizer.state_dict()
    resumed_engine.load(folder)
    if forgotten == "optimizer":
        resumed_engine.optimizer.load_state_dict(fresh)
    begin = 1 if forgotten == "step" else 2
    _, rest = learn(
        resumed, resumed_engine, range(begin, begin + 2), 0.3 if forgotten == "coefficient" else coef
    )
    assert rest != log[2:]


def test_field_B33_a_missing_or_unknown_tensor_is_refused(tmp_path: Path) -> None:
    actors, engine = start()
    learn(actors, engine, range(1))
    engine.save(tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    before = weights(engine)
    without = {name: tensor for name, tensor in saved.items() if name != "value_head.bias"}
    for tensors in (without, {**saved, "another": torch.zeros(1)}):
        save_file(tensors, tmp_path / WEIGHTS)
        with pytest.raises(UserError, match=r"other weights than this model trains"):
            engine.load(tmp_path)
    assert equal(before, weights(engine))
    save_file(saved, tmp_path / WEIGHTS)
    engine.load(tmp_path)
    (tmp_path / OPTIMIZER).unlink()
    with pytest.raises((UserError, FileNotFoundError), match=OPTIMIZER.replace(".", r"\.")):
        engine.load(tmp_path)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    _, engine = start()
    engine.save(tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    save_file({**saved, "value_head.weight": torch.ones(1, 1)}, tmp_path / WEIGHTS)
    before = weights(engine)
    with pytest.raises(UserError, match=r"other weights than this model trains"):
        engine.load(tmp_path)
    assert equal(before, weights(engine))


def test_only_the_newest_complete_checkpoint_is_kept(tmp_path: Path) -> None:
    _, engine = start()
    for step in (2, 10):
        checkpoints = checkpoint(tmp_path, engine, step, 0.2)
        assert [path.name for path in checkpoints.root.iterdir()] == [f"step-{step:06d}"]
    (checkpoints.root / "step-000012.partial").mkdir()
    newest = checkpoints.newest()
    assert newest is not None and newest.name == "step-000010"
    checkpoint(tmp_path, engine, 12, 0.2)
    assert [path.name for path in checkpoints.root.iterdir()] == ["step-000012"]


def test_field_B37_a_damaged_checkpoint_is_left_for_an_older_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    _, engine = start()
    checkpoints = checkpoint(tmp_path, engine, 2, 0.2)
    old = checkpoints.root / "step-000002"
    shutil.copytree(old, tmp_path / "kept")
    checkpoint(tmp_path, engine, 4, 0.2)
    shutil.copytree(tmp_path / "kept", old)
    weights_file = checkpoints.root / "step-000004" / WEIGHTS
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    newest = checkpoints.newest()
    assert newest is not None and newest.name == "step-000002"
    said = capsys.readouterr().err
    assert "step-000004 is damaged" in said and WEIGHTS in said
    (old / OPTIMIZER).unlink()
    assert checkpoints.newest() is None


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest() is None


@pytest.mark.slow
def test_learns_to_say_even_tokens() -> None:
    """The whole loop on a task with a known optimum: the share of even ids must rise."""
    actors, engine = start(Optimizer(learning_rate=3e-3))
    prompts = make_prompts([3] * 32, max_new=6, min_new=6)

    def share() -> float:
        rollout = actors.roll_out(prompts, ("measure",))
        even = (rollout.response_ids % 2 == 0) & rollout.response_mask
        return float(even.sum() / rollout.response_mask.sum())

    before = share()
    learn(actors, engine, range(25), coef=0.0, algorithm=replace(TASK, kl=KLPenalty(coef=0.0)))
    assert share() > max(0.75, before + 0.15)


def test_rollout_of_another_temperature_is_not_the_trained_distribution() -> None:
    """A policy that forgets the temperature sees a first ratio far from 1."""
    hot = tiny_actors(sampling=Sampling(temperature=0.7))
    rollout = rollout_at(hot, 0)
    cold = tiny_actors()
    engine = Engine(cold.policy, FAST, on_cpu=True, seed=0)
    row = engine.update(replace(TASK, ratio_threshold=None), rollout, targets_at(TASK, rollout, 0.3), 0)
    assert row["ppo/ratio_max_dev"] > 1e-2

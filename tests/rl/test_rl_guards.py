"""What an optimizer step starts from, what it leaves behind, and whose rows it counts.

Below the limit gradients are left alone. Rescaling them there too would be the same but for norms
within 1e-6 of it, where torch's coefficient, limit / (norm + 1e-6), is below 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from builders import make_rollout, tiny_causal, train_tokenizer
from learning import TASK, rollout_at, start, targets_at, task
from policies import LORA, rolled, run_config, stir
from small_update import actors_for, distance, rollout_of, small, targets_of, updater_of
from tokencredit.algorithms.optimizer import ClipNorm, Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.ppo_penalty import PPOPenalty
from tokencredit.hardware import Hardware
from tokencredit.models.actors import Actors
from tokencredit.models.critic import save_value
from tokencredit.models.value import Value, ValueKind
from tokencredit.ops import keep
from tokencredit.rl.engine import Engine
from tokencredit.rl.load import load_actors
from tokencredit.rl.micro_batches import deal
from tokencredit.rl.update import NotFinite, Updater
from tokencredit.rl.world import World, compute_deterministically
from tokencredit.rollout import Rollout
from tokencredit.streams import permutation, stream_key

STATE = {"kl/coef": 0.3}


def gradient_of(actors: Actors) -> Tensor:
    """All gradients in one row."""
    parameters = actors.policy.parameters()
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def gradients_at_steps(
    actors: Actors, updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """What the optimizer is given at each of its steps, filled while it works; nothing moves."""
    found: list[Tensor] = []
    step = lambda: found.append(gradient_of(actors))  # noqa: E731
    monkeypatch.setattr(updater.engine.optimizer, "step", step)
    return found


def without_gradients(actors: Actors) -> bool:
    return all(p.grad is None for p in actors.policy.parameters())


def test_a_skipped_minibatch_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = small(PPO, minibatches=2)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    targets = targets_of(algorithm, rollout)
    updater = updater_of(actors, algorithm)
    first, second = torch.from_numpy(permutation(stream_key(5, "minibatch", 0, 0), 8)).chunk(2)
    there = torch.isin(torch.arange(8), first)[:, None] & rollout.response_mask
    far = replace(rollout, logp=torch.where(there, rollout.logp - math.log(12), rollout.logp))
    found = gradients_at_steps(actors, updater, monkeypatch)
    row = updater.update(far, targets, algorithm.initial_state(), 0)
    assert (row["ppo/skipped"], row["optimizer/steps"]) == (1, 1)
    part = rollout[second]
    loss = algorithm.loss(actors.policy(part), part, targets[second], algorithm.initial_state())
    (loss.total / algorithm.denominator(part.response_mask)).backward()
    assert distance(found[0], gradient_of(actors)) < 1e-5


def test_a_step_that_was_skipped_whole_leaves_no_gradients() -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    far = replace(rollout, logp=keep(rollout.logp - math.log(12), rollout.response_mask))
    row = updater.update(far, targets_at(TASK, rollout, STATE), STATE, 0)
    assert row["optimizer/steps"] == 0 and without_gradients(actors)


def test_a_loss_that_is_not_finite_leaves_no_gradients() -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    broken = replace(targets, returns=torch.where(rollout.response_mask, math.nan, 0.0))
    with pytest.raises(NotFinite):
        updater.update(rollout, broken, STATE, 0)
    assert without_gradients(actors)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_kl_after_a_step_is_that_of_a_token(micro_batch: int | None) -> None:
    algorithm = small(PPOPenalty, rate=1e-2)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    updater = updater_of(actors, algorithm, micro_batch)
    state = algorithm.initial_state()
    found = updater.update(rollout, targets_of(algorithm, rollout), state, 0)["penalty/final_kl"]
    with torch.no_grad():
        moved = (actors.policy(rollout).logp - rollout.logp)[rollout.response_mask].double()
    expected = moved.exp() * moved - moved.expm1()  # ρ log ρ − (ρ − 1)
    assert found == pytest.approx(float(expected.mean()), rel=1e-4) and found > 1e-4
    assert len(expected) > 2 * len(rollout)


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
@pytest.mark.parametrize(("rows", "size"), [(1, 2), (5, 2), (3, 4), (8, 3)])
def test_every_row_is_counted_by_one_process_once(
    rows: int, size: int, micro_batch: int | None
) -> None:
    """Idle processes run as many micro-batches as the others, on rows that weigh nothing."""
    rollout = make_rollout([1 + n % 4 for n in range(rows)])
    counted: list[int] = []
    passes = []
    for rank in range(size):
        hardware = Hardware(processes=size, micro_batch=micro_batch)
        world = SimpleNamespace(rank=rank, size=size, hardware=hardware)
        engine = cast(Engine, SimpleNamespace(world=world))
        own = Updater(engine, TASK, seed=5)._own(rollout)
        passes.append(len(own))
        for part, weight in own:
            assert len(part) and weight in (0.0, 1.0)
            counted += part.tolist() * int(weight)
    assert sorted(counted) == list(range(rows)) and len(set(passes)) == 1


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 5, 7, 9])
def test_no_micro_batch_is_larger_than_was_asked_for(rows: int, size: int) -> None:
    """With two processes 5 rows one by one are three rounds: 2 would put two rows together."""
    for processes in (1, 2, 4):
        parts = deal(torch.arange(rows) + 1, size, processes)
        assert max(map(len, parts)) <= size and sum(map(len, parts)) == rows
        most = math.ceil(rows / processes)
        assert len(parts) == processes * math.ceil(most / size)


def test_sums_over_processes_keep_what_a_float32_would_lose() -> None:
    whole = float(2**24 + 1)
    found = World(Hardware()).sums({"tokens": whole, "loss": torch.tensor(0.1).double() + 1e-12})
    assert found == {"tokens": whole, "loss": float(torch.tensor(0.1)) + 1e-12}


@pytest.fixture
def kernels_as_before() -> Iterator[None]:
    asked, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    sdp = torch.backends.cuda.mem_efficient_sdp_enabled()
    yield
    torch.use_deterministic_algorithms(asked, warn_only=warn)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    torch.backends.cuda.enable_mem_efficient_sdp(sdp)


def test_deterministic_kernels_are_asked_for(kernels_as_before: None) -> None:
    torch.use_deterministic_algorithms(False)
    compute_deterministically()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()  # some have no other kernel
    assert not torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("kind", list(ClipNorm))
def test_gradients_within_the_limit_keep_every_bit(
    kind: ClipNorm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the limit is so small that torch's own coefficient would shrink them."""
    limit = 1e-6
    actors, updater = start(
        task(Optimizer(learning_rate=1e-3, max_grad_norm=limit, clip_norm=kind))
    )
    found = gradients_at_steps(actors, updater, monkeypatch)
    for norm, clipped in ((0.9 * limit, False), (100 * limit, True)):
        parameters = list(actors.policy.parameters())
        size = sum(p.numel() for p in parameters)
        for p in parameters:
            p.grad = torch.full_like(p, norm / math.sqrt(size))
        before = gradient_of(actors)
        assert updater.engine.step() == pytest.approx(norm, rel=1e-3)
        assert torch.equal(found[-1], before) is not clipped


def test_a_separate_value_model_is_saved_without_its_adapters(tmp_path: Path) -> None:
    """As a plain folder, which needs neither peft nor the model that it started from."""
    sft, out = tmp_path / "sft", tmp_path / "value"
    tiny_causal().save_pretrained(sft)
    train_tokenizer().save_pretrained(sft)
    out.mkdir()
    config = run_config(value=Value(kind=ValueKind.separate), lora=LORA)
    policy, rollout = load_actors(config, sft).policy, rolled()
    stir(policy)
    save_value(policy, out)
    assert not list(out.glob("adapter*"))
    assert not any("lora" in name for name in load_file(out / "model.safetensors"))
    with torch.no_grad():
        expected = states_of(policy.value_trunk, policy, rollout)
        plain = AutoModel.from_pretrained(out)
        assert torch.allclose(states_of(plain, policy, rollout), expected, atol=1e-4)
        unstirred = AutoModel.from_pretrained(sft)
        assert not torch.allclose(states_of(unstirred, policy, rollout), expected, atol=1e-2)


def states_of(model: Any, policy: Any, rollout: Rollout) -> Tensor:
    found: Tensor = policy.states(model, policy.layout(rollout))
    return found

"""Old mistakes made again on purpose: the checks that other files hold must notice each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from builders import make_rollout, tiny_causal
from learning import TASK, equal, learn, rollout_at, start, targets_at, weights
from tokencredit.algorithms import actor_critic
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Record
from tokencredit.errors import UserError
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import Updater
from tokencredit.rollout import PolicyOutput, Targets
from tokencredit.store.jsonl import JsonlWriter
from tokencredit.tracking.tracker import Tracker
from tokencredit.tracking.tracking import Tracking, WandbMode

STATE = {"kl/coef": 0.3}


def test_field_B17_minibatches_without_effect_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def whole(updater: Updater, size: int, step: int) -> Iterator[Tensor]:
        yield from [torch.arange(size)] * updater.algorithm.epochs

    monkeypatch.setattr(Updater, "_minibatches", whole)
    _, (row,) = learn(*start(), range(1))
    assert row["optimizer/steps"] == TASK.epochs != TASK.epochs * TASK.minibatches


def test_field_B21_unchecked_numbers_would_reach_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actors, updater = start()
    rollout = rollout_at(actors, 0)
    targets = targets_at(TASK, rollout, STATE)
    bad = Targets(advantages=targets.advantages, returns=targets.returns * math.nan)
    before = weights(updater.engine)
    with pytest.raises(UserError, match="the loss is nan"):
        updater.update(rollout, bad, STATE, 0)
    assert equal(before, weights(updater.engine))
    monkeypatch.setattr(math, "isfinite", lambda _: True)
    updater.update(rollout, bad, STATE, 0)
    assert any(tensor.isnan().any() for tensor in weights(updater.engine).values())


def test_field_B26_a_fraction_taken_after_clipping_could_never_fire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollout = make_rollout([3, 2])
    output = PolicyOutput(
        logp=rollout.logp, values=rollout.values + 5, entropy=torch.zeros(rollout.logp.shape)
    )
    targets = Targets(advantages=rollout.values, returns=rollout.values)

    def fraction() -> float:
        return TASK.loss(output, rollout, targets, STATE).sums["value/clip_fraction"].item()

    assert fraction() == 5  # tokens, all of them
    own = actor_critic.outside_by
    late = lambda change, limit: own(change.clamp(-limit, limit), limit)  # noqa: E731
    monkeypatch.setattr(actor_critic, "outside_by", late)
    assert fraction() == 0


def tracked(folder: Path, first: int, last: int, state: dict[str, int] | None) -> dict[str, int]:
    """Log some steps, as a run that starts at `first`; where the files then end."""
    mode = Tracking(mode=WandbMode.disabled)
    with Tracker(folder, mode, "key", "name", {}, state, 6, first) as tracker:
        for step in range(first, last):
            tracker.log(step, {"x": 1.0}, {})
            found = tracker.state() if step == 2 else {}
    return found


def test_field_B27_a_log_that_is_not_cut_would_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps are logged, the checkpoint is that of step 3."""
    state = tracked(tmp_path, 0, 3, None)
    with monkeypatch.context() as patch:
        patch.setattr(JsonlWriter, "truncate", lambda *_: None)
        tracked(tmp_path, 3, 5, state)
        with pytest.raises(UserError, match="5 steps: the checkpoint continues at step 3"):
            tracked(tmp_path, 3, 6, state)
    tracked(tmp_path, 3, 6, state)
    assert (tmp_path / "metrics.jsonl").read_text().count('"step"') == 6


def stream_of(tokenizer: PreTrainedTokenizerFast) -> PromptStream:
    texts = [f"{n} the movie was good and long, and so is this review" for n in range(10)]
    records = [Record(row=row, text=text) for row, text in enumerate(texts)]
    return PromptStream(records, tokenizer, PromptSpec(min_characters=20), Sampling(), 96)


def prompts(source: PromptStream, steps: range) -> list[list[list[int]]]:
    return [source.batch(0, step, 4).ids.tolist() for step in steps]


def test_field_B34_resumed_at_any_step_the_prompts_go_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Five steps of 4 are two passes over 10 records; the first one ends within step 2."""
    straight = prompts(stream_of(tokenizer), range(6))
    assert straight[:3] != straight[3:]
    for step in range(6):
        assert prompts(stream_of(tokenizer), range(step, 6)) == straight[step:], step


def test_field_B34_a_position_that_is_not_kept_would_be_seen(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """As where a loader counts from the start of its process."""
    straight = prompts(stream_of(tokenizer), range(6))
    for step in range(1, 6):
        assert prompts(stream_of(tokenizer), range(6 - step)) != straight[step:]


def test_field_B34_epochs_all_alike_would_be_seen(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epochs() -> list[list[int]]:
        source = stream_of(tokenizer)
        rows = [int(row) for step in range(5) for row in source.batch(0, step, 4).rows]
        return [rows[:10], rows[10:]]

    first, second = epochs()
    assert first != second and sorted(first) == sorted(second)
    own = PromptStream._at
    monkeypatch.setattr(PromptStream, "_at", lambda s, *a: own(s, *a[:2], a[2] % 10))
    first, second = epochs()
    assert first == second


def test_field_B36_a_prefix_on_every_name_would_be_seen(tmp_path: Path) -> None:
    """As where the module with the value head is saved in place of the model."""
    tiny_causal().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {f"pretrained_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    _, found = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert found["missing_keys"] and found["unexpected_keys"]


@pytest.mark.parametrize("mutation", [False, True])
def test_field_B37_a_full_disk_keeps_the_checkpoint_before(
    mutation: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the older one is deleted first, as some do, and nothing is left."""
    actors, updater = start()
    learn(actors, updater, range(1))
    checkpoints, before = Checkpoints(tmp_path), weights(updater.engine)
    checkpoints.save(updater.engine, Progress(1, STATE, {}))
    learn(actors, updater, range(1, 2))

    def full(engine: Engine, folder: Path) -> None:
        (folder / "slices-00000.safetensors").write_bytes(b"half of")
        if mutation:
            (older,) = checkpoints.root.glob("step-000001")
            older.rename(tmp_path / "deleted")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "save", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(updater.engine, Progress(2, STATE, {}))
    newest = checkpoints.newest()
    assert (newest is None) is mutation
    if newest is not None:
        updater.engine.load(newest)
        assert Checkpoints.progress(newest).next_step == 1
        assert equal(before, weights(updater.engine))
        checkpoints.save(updater.engine, Progress(2, STATE, {}))
        assert [path.name for path in checkpoints.root.iterdir()] == ["step-000002"]

"""The state of a run on disk: complete, verified, and enough to go on to the same result."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learning import equal, learn, start, weights
from tokencredit.algorithms.algorithm import State
from tokencredit.errors import UserError
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.engine import Engine
from tokencredit.rl.slices import MOMENTS, Slice, write

SLICES = "slices-00000.safetensors"
STATE: State = {"kl/coef": 0.2}


def checkpoint(folder: Path, engine: Engine, step: int, state: State) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    checkpoints.save(engine, Progress(step, state, {"metrics.jsonl": 123}))
    return checkpoints


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_field_B32_a_resumed_run_is_the_run(tmp_path: Path, cut: int) -> None:
    actors, updater = start()
    engine = updater.engine
    coef, log = learn(actors, updater, range(5))
    first, first_updater = start()
    first_engine = first_updater.engine
    middle, first_log = learn(first, first_updater, range(cut))
    checkpoints = checkpoint(tmp_path, first_engine, cut, middle)
    resumed, resumed_updater = start(seed=3)  # other weights, to be replaced
    resumed_engine = resumed_updater.engine
    resumed.reference = first.reference
    newest = checkpoints.newest()
    assert newest is not None
    progress = Checkpoints.progress(newest)
    assert (progress.next_step, progress.offsets) == (cut, {"metrics.jsonl": 123})
    resumed_engine.load(newest)
    last, rest = learn(resumed, resumed_updater, range(cut, 5), progress.state)
    assert first_log + rest == log
    assert equal(weights(engine), weights(resumed_engine))
    assert last == coef != {"kl/coef": 0.3}
    assert same_optimizers(engine, resumed_engine)


def same_optimizers(one: Engine, two: Engine) -> bool:
    """Whether all means and steps are the same, and some optimizer steps were made."""
    pairs = list(zip(one.slices(), two.slices(), strict=True))
    return all(
        a.name == b.name
        and a.step == b.step > 0
        and all(torch.equal(a.moments[name], b.moments[name]) for name in MOMENTS)
        for a, b in pairs
    )


@pytest.mark.parametrize("forgotten", ["optimizer", "coefficient", "step"])
def test_field_B33_a_forgotten_part_would_be_seen(tmp_path: Path, forgotten: str) -> None:
    actors, updater = start()
    _, log = learn(actors, updater, range(4))
    first, first_updater = start()
    first_engine = first_updater.engine
    coef, _ = learn(first, first_updater, range(2))
    folder = checkpoint(tmp_path, first_engine, 2, coef).newest()
    assert folder is not None
    resumed, resumed_updater = start()
    resumed_engine = resumed_updater.engine
    fresh = resumed_engine.optimizer.state_dict()
    resumed_engine.load(folder)
    if forgotten == "optimizer":
        resumed_engine.optimizer.load_state_dict(fresh)
    begin = 1 if forgotten == "step" else 2
    _, rest = learn(
        resumed,
        resumed_updater,
        range(begin, begin + 2),
        None if forgotten == "coefficient" else coef,
    )
    assert rest != log[2:]


def rewritten(slices: Sequence[Slice], folder: Path) -> Path:
    """These slices in place of those in `folder`."""
    for path in folder.glob("slices-*"):
        path.unlink()
    write(slices, folder, 0)
    return folder


def test_field_B33_a_missing_or_unknown_tensor_is_refused(tmp_path: Path) -> None:
    actors, updater = start()
    engine = updater.engine
    learn(actors, updater, range(1))
    slices = engine.slices()
    before = weights(engine)
    without = [each for each in slices if each.name != "value_head.bias"]
    unknown = [*slices, replace(slices[-1], name="another")]
    wide = [replace(each, shape=(1, *each.shape)) for each in slices]
    for other in (without, unknown, wide):
        with pytest.raises(UserError, match=r"other weights than this model trains"):
            engine.load(rewritten(other, tmp_path))
    assert equal(before, weights(engine))
    engine.load(rewritten(slices, tmp_path))


def test_slices_of_any_cut_are_put_together(tmp_path: Path) -> None:
    """As if three processes had written them, in cuts of their own; one that is lost is named."""
    actors, updater = start()
    learn(actors, updater, range(2))
    slices = updater.engine.slices()
    for rank in range(3):
        write([piece for each in slices for piece in cut(each, rank)], tmp_path, rank)
    other = start(seed=3)[1].engine
    other.load(tmp_path)
    assert equal(weights(other), weights(updater.engine))
    assert same_optimizers(updater.engine, other)
    (tmp_path / "slices-00001.safetensors").unlink()
    with pytest.raises(UserError, match=r"master of .* is missing from \d+ to \d+; a file of one"):
        other.load(tmp_path)


def cut(whole: Slice, rank: int) -> list[Slice]:
    """A third of a slice; of one number, the first process has it."""
    size = whole.stop
    begin, end = (size * n // 3 if size > 2 else size * min(n, 1) for n in (rank, rank + 1))
    part = slice(begin, end)
    moments = {name: numbers[part] for name, numbers in whole.moments.items()}
    piece = replace(whole, start=begin, master=whole.master[part], moments=moments)
    return [piece] if end > begin else []


def test_checkpoints_from_before_slices_are_read(tmp_path: Path) -> None:
    actors, updater = start()
    engine = updater.engine
    learn(actors, updater, range(2))
    trained = {name: parameter.data for name, parameter in engine.trained()}
    save_file(trained, tmp_path / "trained.safetensors")
    torch.save({"optimizer": engine.optimizer.state_dict()}, tmp_path / "optimizer-0.pt")
    other = start(seed=3)[1].engine
    other.load(tmp_path)
    assert equal(weights(other), weights(engine))
    assert same_optimizers(engine, other)
    torch.save({"optimizer": {}, "masters": [torch.zeros(2)]}, tmp_path / "optimizer-0.pt")
    with pytest.raises(UserError, match="was written with 1 processes under ZeRO-2"):
        other.load(tmp_path)


def test_only_the_newest_complete_checkpoint_is_kept(tmp_path: Path) -> None:
    _, updater = start()
    engine = updater.engine
    for step in (2, 10):
        checkpoints = checkpoint(tmp_path, engine, step, STATE)
        assert [path.name for path in checkpoints.root.iterdir()] == [f"step-{step:06d}"]
    (checkpoints.root / "step-000012.partial").mkdir()
    newest = checkpoints.newest()
    assert newest is not None and newest.name == "step-000010"
    checkpoint(tmp_path, engine, 12, STATE)
    assert [path.name for path in checkpoints.root.iterdir()] == ["step-000012"]


def test_field_B37_a_damaged_checkpoint_is_left_for_an_older_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, updater = start()
    engine = updater.engine
    checkpoints = checkpoint(tmp_path, engine, 2, STATE)
    old = checkpoints.root / "step-000002"
    shutil.copytree(old, tmp_path / "kept")
    checkpoint(tmp_path, engine, 4, STATE)
    shutil.copytree(tmp_path / "kept", old)
    weights_file = checkpoints.root / "step-000004" / SLICES
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    newest = checkpoints.newest()
    assert newest is not None and newest.name == "step-000002"
    said = capsys.readouterr().err
    assert "step-000004 is damaged" in said and SLICES in said
    (old / SLICES).unlink()
    with pytest.raises(UserError, match=r"step-000004: slices.* has changed; no other checkpoint"):
        checkpoints.newest()


@pytest.mark.parametrize("file", ["state.json", SLICES])
def test_every_file_of_a_checkpoint_is_held_to_its_checksum(tmp_path: Path, file: str) -> None:
    """Another coefficient or another step would go on to another result without a word."""
    _, updater = start()
    checkpoints = checkpoint(tmp_path, updater.engine, 2, STATE)
    place = checkpoints.root / "step-000002" / file
    place.write_bytes(place.read_bytes().replace(b"0.2", b"0.3") + b" ")
    with pytest.raises(UserError, match=re.escape(file)):
        checkpoints.newest()


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest() is None

"""The state of a run on disk: complete, verified, and enough to go on to the same result."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from learning import equal, learn, start, weights
from tokencredit.algorithms.algorithm import State
from tokencredit.errors import UserError
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.engine import WEIGHTS, Engine

OPTIMIZER = "optimizer-0.pt"
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
    states = [list(e.optimizer.state.values()) for e in (engine, resumed_engine)]
    for a, b in zip(*states, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


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


def test_field_B33_a_missing_or_unknown_tensor_is_refused(tmp_path: Path) -> None:
    actors, updater = start()
    engine = updater.engine
    learn(actors, updater, range(1))
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
    _, updater = start()
    engine = updater.engine
    engine.save(tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    save_file({**saved, "value_head.weight": torch.ones(1, 1)}, tmp_path / WEIGHTS)
    before = weights(engine)
    with pytest.raises(UserError, match=r"other weights than this model trains"):
        engine.load(tmp_path)
    assert equal(before, weights(engine))


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
    weights_file = checkpoints.root / "step-000004" / WEIGHTS
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    newest = checkpoints.newest()
    assert newest is not None and newest.name == "step-000002"
    said = capsys.readouterr().err
    assert "step-000004 is damaged" in said and WEIGHTS in said
    (old / OPTIMIZER).unlink()
    with pytest.raises(UserError, match=r"step-000004: trained.* has changed; no other checkpoint"):
        checkpoints.newest()


@pytest.mark.parametrize("file", ["state.json", WEIGHTS, OPTIMIZER])
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

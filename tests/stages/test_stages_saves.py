"""Stages that are killed go on from their newest save, and come to the bytes of one that was not."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from built_stages import STAGES, build, furnish, stage_of
from tokencredit.config import Config
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.hindsight import HindsightJudge
from tokencredit.settings import FIGA, SFT, FIGATraining, RewardModel
from tokencredit.stages.context import Context
from tokencredit.stages.saves import Saves
from tokencredit.stages.stage import Stage
from tokencredit.training_settings import JudgeTraining

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stage saves")]

PATIENCE: Final = 60.0
PASSES: Final = {"batch_size": 4, "micro_batch_size": 2, "epochs": 2.5, "learning_rate": 1e-2}
"""Two passes a step, and epochs that end amid a step."""
KINDS: Final = (
    "sft",
    "reward model of labels",
    "reward model of pairs",
    "dpo",
    "dpo with adapters",
    "discriminator",
    "advantage model",
    "hindsight model",
    "figa",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a model that has dropout in its attention."""
    folder = furnish(tmp_path_factory.mktemp("saves"))
    put_dropout(folder, 0.2)
    return folder


def put_dropout(folder: Path, share: float) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_dropout": share}))


def stage(kind: str, place: Path, store: Path, minutes: float | None) -> Stage:
    """The stage of that kind, which saves every so many minutes."""
    config: Config = stage_of(kind, place, store).context.config
    config = replace(
        config,
        sft=SFT(**PASSES, max_length=48),
        reward_model=RewardModel(**PASSES, max_length=90),
        dpo=replace(config.dpo, **PASSES, max_length=90),
        run=replace(config.run, save_minutes=minutes),
    )
    if isinstance(config.judge, DiscriminatorJudge | AdvantageJudge | HindsightJudge):
        training = JudgeTraining(**PASSES, max_length=90)
        config = replace(config, judge=replace(config.judge, training=training))
    if isinstance(config.algorithm, FIGA):
        config = replace(config, algorithm=FIGA(training=FIGATraining(**PASSES, max_length=90)))
    name = STAGES[kind][0]
    found: Stage = {each.name: each for each in _all(config)}[name]
    return found


def _all(config: Config) -> list[Stage]:
    from tokencredit.pipeline.pipeline import all_stages

    return list(all_stages(Context(config)))


def in_a_child(work: Callable[[], None], log: Path, until: int | None) -> tuple[int, str]:
    """Do `work` in a process of its own, killed by SIGKILL when it has saved `until` times.

    How it ended, and what it said; a last line says how many optimizer steps it took.
    """
    saved = log.with_suffix(".saved")
    saved.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _be_the_child(work, log, saved, until)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if until is not None and saved.exists():
            os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text()
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(log.read_text())


def _be_the_child(work: Callable[[], None], log: Path, saved: Path, until: int | None) -> None:
    code = 1
    try:
        stream = log.open("w", buffering=1)
        os.dup2(stream.fileno(), 2)
        sys.stderr = stream
        steps, saves, save = [0], [0], Saves.save

        def count(*_: object) -> None:
            steps[0] += 1

        def save_and_wait(self: Saves) -> None:
            save(self)
            saves[0] += 1
            if saves[0] == until:
                saved.touch()
                signal.pause()  # death finds it here, and not a few steps later

        register_optimizer_step_post_hook(count)
        Saves.save = save_and_wait  # type: ignore[method-assign]
        work()
        print(f"optimizer steps: {steps[0]}", file=sys.stderr)
        code = 0
    except BaseException as error:  # noqa: BLE001 - it must not return to the test
        print(f"failed: {error!r}", file=sys.stderr)
    finally:
        os._exit(code)


def found(one: Stage) -> dict[str, Any]:
    """What an artifact is: the hash of each file, and its figures."""
    manifest = one.context.store.get(one).manifest
    return {name: manifest[name] for name in ("key", "sha256", "figures")}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_after_saves_a_stage_goes_on_to_the_same_bytes(
    kind: str, place: Path, tmp_path: Path
) -> None:
    """In its first epoch, at the end of it, and in the second; then it takes the steps that are
    left, and no other."""
    straight = stage(kind, place, tmp_path / "straight", None)
    build(straight)
    steps = straight.figures()["steps"]
    per_epoch = -(-steps * 2 // 5)
    killed = stage(kind, place, tmp_path / "killed", 1e-9)
    for parent in killed.parents().values():
        build(parent)
    store, folder = killed.context.store, killed.context.store.folder(killed)
    saves, log = folder.with_suffix(".saves"), tmp_path / "log"
    at = 0
    for until in (2, per_epoch - 2, 2):
        code, said = in_a_child(lambda: void(store.build(killed)), log, until)
        assert code == -signal.SIGKILL, said
        assert (f"{killed.name} {killed.key}: continues at step {at} of {steps}" in said) is (
            at > 0
        )
        at += until
        assert [path.name for path in saves.glob("*/*")] == [f"step-{at:06d}"]
        assert not folder.exists()
    assert 0 < at < steps
    code, said = in_a_child(lambda: void(store.build(killed)), log, None)
    assert code == 0, said
    assert f"{killed.name} {killed.key}: continues at step {at} of {steps}\n" in said
    assert f"continued at step {at}, took {steps - at} of {steps} steps\n" in said
    assert f"optimizer steps: {steps - at}\n" in said
    assert re.search(rf": step {steps}/{steps}, 0 s left\n", said)
    assert found(killed) == found(straight)
    assert len(found(killed)["figures"]["curve"]["step"]) == steps
    assert not saves.exists() and not folder.with_suffix(".partial").exists()


def void(_: object) -> None:
    """Nothing, whatever was made."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "adapters" not in kind])
def test_dropout_and_order_do_count_in_what_was_compared(
    kind: str, place: Path, tmp_path: Path
) -> None:
    """Without dropout, and from another state of the generators, other losses are found."""
    losses = []
    try:
        for share, skew in ((0.2, False), (0.0, False), (0.2, True)):
            put_dropout(place, share)
            one = stage(kind, place, tmp_path / f"{share}{skew}", None)
            with pytest.MonkeyPatch.context() as patch:
                if skew:
                    patch.setattr(Saves, "begin_epoch", lambda _: torch.manual_seed(99))
                build(one)
            losses.append(one.figures()["curve"]["loss"])
    finally:
        put_dropout(place, 0.2)
    assert losses[0] != losses[1] and losses[0] != losses[2]

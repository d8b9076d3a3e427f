"""Two processes against one: the same tokens, the same numbers, half of the optimizer's state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ranks
from forked import forked_ranks
from learning import equal
from tokencredit.pipeline.process import rank_environments
from tokencredit.rl.slices import Kept

# One process, which starts each kind of ranks once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranks")]

STEPS = 10
ROLLOUT = ("kl/k1", "score", "tokens")


@dataclass(frozen=True)
class Ran:
    """What the processes of one loop left behind."""

    folder: Path
    reports: list[dict[str, Any]]

    @property
    def log(self) -> list[dict[str, Any]]:
        """The main process's metrics, step by step."""
        log: list[dict[str, Any]] = self.reports[0]["log"]
        return log

    def weights(self) -> dict[str, Any]:
        """The trained tensors of the last checkpoint."""
        (checkpoint,) = (self.folder / "checkpoints").glob("step-*")
        return Kept(checkpoint).weights()


def launch(
    out: Path, steps: tuple[int, int], count: int = 1, sharding: str = "none", mode: str = ""
) -> Ran:
    """Run the small loop in `count` processes."""
    out.mkdir(exist_ok=True)
    known = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "DS_ACCELERATOR": "cpu",
    }
    work = partial(ranks.main, out, *steps, sharding, mode)
    for each in forked_ranks(work, rank_environments(count, known)):
        each.ok()
    return Ran(out, [json.loads((out / f"report-{r}.json").read_text()) for r in range(count)])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One process, whose responses are recorded."""
    return launch(tmp_path_factory.mktemp("one"), (0, STEPS))


@pytest.fixture(scope="module")
def two(one: Ran, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Ran]:
    """Two processes of a kind, each kind started once; "forced" replays the recorded responses."""
    done: dict[tuple[str, str], Ran] = {}

    def start(sharding: str, mode: str = "") -> Ran:
        if (sharding, mode) not in done:
            out = tmp_path_factory.mktemp(f"two-{sharding}-{mode}")
            (out / "forced.safetensors").write_bytes(
                (one.folder / "forced.safetensors").read_bytes()
            )
            done[sharding, mode] = launch(out, (0, STEPS), 2, sharding, mode)
        return done[sharding, mode]

    return start


SHARDINGS = [
    *("none", "zero1", "zero2", "zero2+optimizer", "zero3", "zero3+parameters"),
    *("zero2:sharded", "zero3:sharded-away"),
]


def close(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    """Every metric of two steps agrees."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        # The deviation is rounding itself, and padding is that of each process's own part.
        if name not in ("tokens", "ppo/ratio_max_dev", "update/padding"):
            assert value == pytest.approx(b[name], rel=tolerance, abs=tolerance), name


def test_zero2_is_deepspeed_and_halves_the_optimizer(
    one: Ran, two: Callable[[str, str], Ran]
) -> None:
    sharded = two("zero2", "")
    whole = one.reports[0]["optimizer"]
    assert whole == 2 * one.reports[0]["trained"]
    for report in sharded.reports:
        assert report["kind"] == "DistributedType.DEEPSPEED"
        assert (report["stage"], report["size"]) == (2, 2)
        assert report["optimizer"] == pytest.approx(whole / 2, rel=0.02)


def test_zero3_halves_the_weights_too(one: Ran, two: Callable[[str, str], Ran]) -> None:
    """Outside of passes nothing is whole; each process has half of every tensor."""
    trained = one.reports[0]["trained"]
    for report in two("zero3", "").reports:
        assert (report["stage"], report["held"]) == (3, 0)
        assert report["shards"] == pytest.approx(trained / 2, rel=0.02)
        assert report["optimizer"] == pytest.approx(trained, rel=0.02)


@pytest.mark.parametrize("sharding", ["zero2:sharded", "zero3:sharded-away"])
def test_frozen_models_are_in_shards_between_rollouts(
    one: Ran, two: Callable[[str, str], Ran], sharding: str
) -> None:
    whole = one.reports[0]["frozen"]
    assert whole == one.reports[0]["frozen_shards"] > 0
    for report in two(sharding, "").reports:
        assert report["frozen"] == 0
        assert report["frozen_shards"] == pytest.approx(whole / 2, rel=0.02)


def test_plain_processes_each_hold_the_whole_optimizer(
    one: Ran, two: Callable[[str, str], Ran]
) -> None:
    for report in two("none", "").reports:
        assert report["kind"] == "DistributedType.MULTI_CPU" and report["size"] == 2
        assert report["optimizer"] == one.reports[0]["optimizer"]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_the_first_step_is_that_of_one_process(
    one: Ran, two: Callable[[str, str], Ran], sharding: str
) -> None:
    ran = two(sharding, "")
    first = ran.log[0]
    assert {name: first[name] for name in ROLLOUT} == {name: one.log[0][name] for name in ROLLOUT}
    close(first, one.log[0], 1e-5)
    assert [report["log"] for report in ran.reports] == [ran.log] * 2  # all processes agree


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_ten_steps_on_the_same_responses_agree(
    one: Ran, two: Callable[[str, str], Ran], sharding: str
) -> None:
    ran = two(sharding, "forced")
    for step, (a, b) in enumerate(zip(ran.log, one.log, strict=True)):
        assert a["tokens"] == b["tokens"], step
        close(a, b, 1e-4)
    found = ran.weights()
    for name, tensor in one.weights().items():
        # As a whole: Adam makes a full step of a gradient that is nothing but rounding.
        assert (found[name] - tensor).norm() < 1e-4 * tensor.norm(), name


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_left_alone_they_may_part_late(
    one: Ran, two: Callable[[str, str], Ran], sharding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parted = [
        a["tokens"] != b["tokens"] for a, b in zip(two(sharding, "").log, one.log, strict=True)
    ]
    where = parted.index(True) if True in parted else None
    with capsys.disabled():
        print(f"\n{sharding}, two processes: first step with other tokens: {where or 'none'}")
    assert not parted[0]


@pytest.mark.parametrize("sharding", ["none", "zero2", "zero3", "zero3+parameters"])
def test_field_B32_two_processes_resume_to_the_same_bits(
    two: Callable[[str, str], Ran], sharding: str, tmp_path: Path
) -> None:
    straight = two(sharding, "")
    begin = launch(tmp_path / "cut", (0, 4), 2, sharding)
    rest = launch(tmp_path / "cut", (4, STEPS), 2, sharding)
    assert begin.log + rest.log == straight.log
    assert equal(rest.weights(), straight.weights())
    assert rest.reports[0]["state"] == straight.reports[0]["state"]


@pytest.mark.parametrize("sharding", ["none", "zero2", "zero3"])
def test_gradients_that_are_left_out_move_nothing(
    two: Callable[[str, str], Ran], sharding: str
) -> None:
    straight, ran = two(sharding, ""), two(sharding, "discarding")
    assert ran.log == straight.log
    assert equal(ran.weights(), straight.weights())


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_weights_in_bfloat16_have_masters_in_float32(
    two: Callable[[str, str], Ran], sharding: str, tmp_path: Path
) -> None:
    """Steps too small for bfloat16 are kept, and saved."""
    straight = two(sharding, "narrow")
    for report in straight.reports:
        assert (report["kinds"], report["masters"]) == (["torch.bfloat16"], ["torch.float32"])
    found = straight.weights()
    assert any((each != each.bfloat16().float()).any() for each in found.values())
    begin = launch(tmp_path / "cut", (0, 4), 2, sharding, "narrow")
    rest = launch(tmp_path / "cut", (4, STEPS), 2, sharding, "narrow")
    assert begin.log + rest.log == straight.log
    assert equal(rest.weights(), found)


def test_field_B33_a_missing_slice_is_named(tmp_path: Path) -> None:
    launch(tmp_path, (0, 1), 2, "zero2")
    (checkpoint,) = (tmp_path / "checkpoints").glob("step-*")
    (checkpoint / "slices-00001.safetensors").unlink()
    with pytest.raises(AssertionError, match=r"slices-00001\.safetensors is missing; no other"):
        launch(tmp_path, (1, 2), 2, "zero2")


def test_another_number_of_processes_goes_on_where_one_stopped(one: Ran, tmp_path: Path) -> None:
    """ZeRO-3 on two processes, then one process, then ZeRO-2 on two; on recorded responses."""
    recorded = (one.folder / "forced.safetensors").read_bytes()
    (tmp_path / "forced.safetensors").write_bytes(recorded)
    parts = [
        launch(tmp_path, (0, 4), 2, "zero3", "forced"),
        launch(tmp_path, (4, 7), 1, "none", "forced"),
        launch(tmp_path, (7, STEPS), 2, "zero2", "forced"),
    ]
    log = [step for part in parts for step in part.log]
    for a, b in zip(log, one.log, strict=True):
        close(a, b, 1e-4)
    found = parts[-1].weights()
    for name, tensor in one.weights().items():
        assert (found[name] - tensor).norm() < 1e-4 * tensor.norm(), name

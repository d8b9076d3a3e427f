"""Stages before RL in two processes under DeepSpeed, against one: the same losses, the same files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import stage_ranks
from built_stages import build, furnish
from forked import forked_ranks
from preferences import pair_config
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware, Sharding
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.pipeline.process import rank_environments
from tokencredit.preflight.checks import check_batches
from tokencredit.settings import SFT
from tokencredit.stages.context import Context
from tokencredit.stages.stage import Stage
from tokencredit.stages.together import check_share, divided

pytestmark = pytest.mark.xdist_group("stages together")

KINDS = (
    *("sft", "reward model of labels", "reward model of pairs with adapters", "dpo"),
    *("discriminator", "advantage model"),
)
WHOLE = {"sft": "AutoModelForCausalLM", "dpo": "AutoModelForCausalLM"}


class Made:
    """The stages in two processes of a kind, and in one."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.alone = {kind: self._alone(kind) for kind in KINDS}
        self.reports: dict[str, list[dict[str, Any]]] = {}

    def stage(self, kind: str, sharding: str) -> Stage:
        return stage_ranks.stage_of(kind, self.place, self.folder / sharding, sharding)

    def _alone(self, kind: str) -> Stage:
        stage = self.stage(kind, "none")
        build(stage)
        return stage

    def together(self, sharding: str) -> list[dict[str, Any]]:
        """What the trainers of both processes were, by kind."""
        if sharding not in self.reports:
            self.reports[sharding] = self._together(sharding)
        return self.reports[sharding]

    def _together(self, sharding: str) -> list[dict[str, Any]]:
        store = self.folder / sharding
        for kind in KINDS:
            for parent in self.stage(kind, sharding).parents().values():
                parent.context.config.hardware = Hardware(stage_threads=1)
                build(parent)
        known = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        known["DS_ACCELERATOR"] = "cpu"
        work = partial(stage_ranks.main, self.place, store, sharding, [*KINDS])
        for each in forked_ranks(work, rank_environments(2, known)):
            each.ok()
        return [json.loads((store / f"report-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = furnish(tmp_path_factory.mktemp("place"))
    return Made(place, tmp_path_factory.mktemp("made"))


def shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Format and shape of each tensor in the files of a folder."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found[f"{path.name} {name}"] = part.get_dtype(), tuple(part.get_shape())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero2", "zero3", "zero3+parameters"])
def test_two_steps_in_two_processes_are_those_of_one(made: Made, sharding: str) -> None:
    reports = made.together(sharding)
    for kind in KINDS:
        alone, stage = made.alone[kind], made.stage(kind, sharding)
        for report in reports:
            found = report[kind]
            number = int(sharding[4])
            assert (found["kind"], found["stage"]) == ("DistributedType.DEEPSPEED", number), kind
            if number == 3:
                assert found["held"] == 0
                assert found["shards"] == pytest.approx(found["whole"] / 2, rel=0.02), kind
        assert stage.key == alone.key
        before, after = alone.figures(), stage.figures()
        assert before.keys() == after.keys()
        assert after["curve"]["loss"] == pytest.approx(before["curve"]["loss"], abs=1e-4), kind
        for name, value in before.items():
            if isinstance(value, float):
                assert after[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_what_they_leave_loads_in_one_process_and_has_the_same_tensors(
    made: Made, sharding: str
) -> None:
    import transformers

    made.together(sharding)
    for kind in KINDS:
        alone, stage = made.alone[kind], made.stage(kind, sharding)
        assert stage.is_done()
        folder = stage.folder
        assert shapes(folder) == shapes(alone.folder) != {}, kind
        assert {p.name for p in folder.iterdir()} == {p.name for p in alone.folder.iterdir()}
        if kind in WHOLE:
            model = getattr(transformers, WHOLE[kind]).from_pretrained(folder)
            assert all(bool(p.isfinite().all()) for p in model.parameters())


SHARED = SFT(learning_rate=1e-3, batch_size=12, micro_batch_size=4)


def test_a_batch_is_shared_whole_and_its_passes_have_as_many_rows_as_before() -> None:
    class Two:
        size = 2

        def arguments(self) -> dict[str, object]:
            return {"use_cpu": False}

    common = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "bf16": True}
    crew: Any = Two()
    for micro, rows in ((None, 6), (1, 1), (3, 3), (6, 6), (12, 6)):
        given = divided(common, replace(SHARED, micro_batch_size=micro), crew)
        assert given["per_device_train_batch_size"] == rows
        assert 2 * rows * given["gradient_accumulation_steps"] == SHARED.batch_size
        assert given["use_cpu"] is False and given["bf16"] is False


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (5, "sft.batch_size = 12: hardware.processes = 5 cannot have"),
        (2, "sft.micro_batch_size = 4: each of hardware.processes = 2 has 6 of"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_before_any_work(
    tmp_path: Path, processes: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_share(SHARED, processes)
    config = replace(pair_config(furnish(tmp_path)), store=str(tmp_path / "store"), sft=SHARED)

    def check(sharding: Sharding) -> None:
        config.hardware = Hardware(processes=processes, sharding=sharding)
        context = Context(config)
        check_batches(context, all_stages(context))

    with pytest.raises(UserError, match=said):
        check(Sharding.zero2)
    check(Sharding.none)  # then they run in one process each
    config.sft = replace(SHARED, train=False)
    config.reward_model = replace(config.reward_model, batch_size=20)
    check(Sharding.zero2)


def test_stages_before_rl_are_shared_only_where_deepspeed_divides_them() -> None:
    one, ddp = Hardware(), Hardware(processes=2)
    zero = Hardware(processes=2, sharding=Sharding.zero3)
    count: Callable[[Hardware, str], int] = Hardware.processes_of
    for stage in ("sft", "reward_model", "dpo", "discriminator", "advantage"):
        assert (count(one, stage), count(ddp, stage), count(zero, stage)) == (1, 1, 2)
    assert [count(zero, stage) for stage in ("oracle", "figa", "sampled_pairs", "rl")] == [
        1,
        1,
        1,
        2,
    ]
    assert zero.threads_of("sft") == max(1, one.threads_of("sft") // 2)

"""Numbers that are none never become a result; an exit code alone is no result either."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from builders import tiny_actors
from learning import start
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import Lora
from tokencredit.pipeline import pipeline
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.export import export_policy
from tokencredit.rl.update import NotFinite
from tokencredit.stages.context import Context
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Store
from tokencredit.store.finite import check_scores, first_not_finite, stored_tensors

from .test_store_keys import config as config_of
from .test_store_keys import place as _place

place = _place
BAD = (math.nan, math.inf, -math.inf)


class Weights(Stage):
    """Writes a tensor and reports a figure."""

    name: ClassVar[str] = "weights"
    version: ClassVar[int] = 1

    def __init__(self, tensor: torch.Tensor, figure: float = 1.0) -> None:
        Stage.__init__(self, None)  # type: ignore[arg-type]
        self.tensor, self.figure = tensor, figure

    def inputs(self) -> Mapping[str, object]:
        return {}

    def run(self, out: Path) -> Mapping[str, object]:
        (out / "sub").mkdir()
        save_file(
            {"fine": torch.ones(2), "layer.weight": self.tensor}, out / "sub" / "a.safetensors"
        )
        return {"scores": {"spread": self.figure}}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_that_are_not_finite_are_no_artifact(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    store = Store(tmp_path)
    stage = Weights(torch.tensor([0.0, value], dtype=dtype))
    with pytest.raises(UserError, match=r"weights: the tensor layer\.weight is not finite.*lower"):
        store.build(stage)
    assert store.find(stage) is None and not store.folder(stage).exists()
    assert store.build(Weights(torch.tensor([0.0, 1.0], dtype=dtype))).path.is_dir()


@pytest.mark.parametrize("value", BAD)
def test_figures_that_are_not_finite_are_no_artifact(tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError, match=rf"weights: scores\.spread = {value} is not finite"):
        Store(tmp_path).build(Weights(torch.ones(2), value))


def test_integers_and_eight_bits_are_read(tmp_path: Path) -> None:
    small = torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)
    for name, tensor in {"a": torch.tensor([7]), "b": small}.items():
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    assert first_not_finite(stored_tensors(tmp_path)) == "b"


def test_scores_that_are_not_finite_are_counted() -> None:
    check_scores("dpo", torch.zeros(3))
    with pytest.raises(UserError, match="dpo: 2 of 3 scores are not finite"):
        check_scores("dpo", torch.tensor([1.0, math.nan, math.inf]))


def test_a_checkpoint_or_an_export_of_such_weights_is_not_written(tmp_path: Path) -> None:
    _, updater = start()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(updater.engine, Progress(1, {}, {}))
    name, tensor = updater.engine.trained()[0]
    tensor.data.view(-1)[0] = math.nan
    with pytest.raises(NotFinite, match=rf"checkpoint step-000002 is not written: .*{name} is not"):
        checkpoints.save(updater.engine, Progress(2, {}, {}))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    actors = tiny_actors()
    export_policy(actors, Lora(), tmp_path)
    before = (tmp_path / "policy" / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(actors.policy.model.parameters()).view(-1)[0] = math.inf
    with pytest.raises(NotFinite, match="policy/ is not written"):
        export_policy(actors, Lora(), tmp_path)
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("last", [True, False], ids=["rl", "an artifact"])
def test_a_process_that_ends_well_and_leaves_nothing_is_not_believed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    config: Config = config_of(place)
    config.store, config.runs_dir = str(tmp_path / "store"), str(tmp_path / "runs")
    config.dataset.prompt.min_characters, config.reward_model.max_length = 0, 96
    ran: list[str] = []

    def run_stage(_: Config, stage: str, __: str) -> tuple[int, str]:
        ran.append(stage)
        return 0, ""

    monkeypatch.setattr(pipeline, "run_stage", run_stage)
    if last:
        monkeypatch.setattr(pipeline, "all_stages", lambda c: [pipeline.last_stage(c)])
    with pytest.raises(
        UserError, match=r"stage (sft|rl) ended with exit code 0 and its result"
    ) as e:
        pipeline.execute(config)
    expected = pipeline.all_stages(Context(config))[0]
    assert ran == [expected.name] and expected.key in str(e.value)

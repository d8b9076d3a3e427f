"""What a complete run left is looked at again: made anew from the checkpoint, or a named error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from built_stages import build, furnish, labelled
from preferences import pair_config
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.canonical import file_sha256
from tokencredit.commands.generate import continuations
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.evaluation.compare.players import players
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.pipeline import pipeline
from tokencredit.settings import Evaluation, Run
from tokencredit.stages.context import Context
from tokencredit.stages.rl import RLStage
from tokencredit.stages.trainer import seed_generators
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import read_json, write_json
from tokencredit.store.run_folder import RunFolder, hash_exports
from tokencredit.tracking.tracking import Tracking, WandbMode

POLICY = "policy/model.safetensors"
BEST = "policy_best/model.safetensors"
REMADE = (POLICY, "value/value_head.safetensors", "evaluation.jsonl", "results.json")
LOST = (BEST, "metrics.jsonl", "samples.jsonl", "timings.jsonl")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """The configuration of a complete run of two steps with a best policy kept."""
    place = furnish(tmp_path_factory.mktemp("exports"))
    config = replace(
        labelled(pair_config(place), place),
        store=str(place / "store"),
        run_dir=str(place / "run"),
        steps=2,
        algorithm=PPO(
            batch_size=4, minibatches=1, epochs=1, optimizer=Optimizer(learning_rate=1e-3)
        ),
        tracking=Tracking(mode=WandbMode.disabled),
        rollout=Sampling(min_new_tokens=2, max_new_tokens=5),
        evaluation=Evaluation(prompts=4, every=1),
        run=Run(figures=False, save_every=1, scheme="sparse"),
    )
    stage = RLStage(Context(config))
    for parent in stage.parents().values():
        build(parent)
    stage.run(stage.folder)
    yield config
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def stage(complete: Config, tmp_path: Path) -> RLStage:
    """The stage of a copy of that run."""
    shutil.copytree(str(complete.run_dir), tmp_path / "run")
    return RLStage(Context(replace(complete, run_dir=str(tmp_path / "run"))))


def spoil(path: Path, how: str) -> None:
    """Change the last byte but one of a file, or delete it."""
    if how == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)


def exports(stage: RLStage) -> dict[str, str]:
    found: dict[str, str] = read_json(stage.folder / MANIFEST)["exports"]
    return found


def test_a_complete_run_knows_its_files(stage: RLStage) -> None:
    found = exports(stage)
    assert found == hash_exports(stage.folder)
    assert {*REMADE, *LOST, "policy/tokenizer.json"} <= set(found)
    assert not any(name.startswith(("figures", "report", "checkpoints")) for name in found)
    assert stage.is_done() and stage.plan().hit
    (stage.folder / "report.html").write_text("drawn again")
    assert stage.is_done()


@pytest.mark.parametrize("name", [*REMADE, *LOST])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_damage_is_seen_and_named(stage: RLStage, name: str, how: str) -> None:
    spoil(stage.folder / name, how)
    assert RunFolder(stage.folder).damage() == (
        f"{name} has changed" if how == "changed" else f"{name} is missing"
    )
    assert not stage.is_done()
    if name in LOST:
        with pytest.raises(UserError, match=rf"{name} .*restore the file, or delete"):
            stage.check_folder()
    else:
        stage.check_folder()
        assert any(name in reason for reason in stage.plan().reasons)


def test_what_a_checkpoint_holds_is_made_again(
    stage: RLStage, capsys: pytest.CaptureFixture[str]
) -> None:
    before = exports(stage)
    for name in REMADE:
        spoil(stage.folder / name, "changed")
    seed_generators(99)
    stage.run(stage.folder)
    assert "evaluation.jsonl has changed" in capsys.readouterr().err
    after = exports(stage)
    assert {name for name in after if after[name] != before[name]} <= {
        "results.json"
    }  # its seconds
    assert after.keys() == before.keys() and stage.is_done()


def test_what_no_checkpoint_holds_is_refused_before_anything_is_changed(stage: RLStage) -> None:
    spoil(stage.folder / "metrics.jsonl", "changed")
    spoil(stage.folder / POLICY, "missing")
    before = (stage.folder / MANIFEST).read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl has changed"):
        stage.run(stage.folder)
    more = replace(stage.context.config, steps=9)
    with pytest.raises(UserError, match=r"metrics\.jsonl has changed"):
        pipeline.plan(more)
    assert (stage.folder / MANIFEST).read_bytes() == before


def test_a_run_from_before_stays_complete(stage: RLStage) -> None:
    manifest = read_json(stage.folder / MANIFEST)
    del manifest["exports"]
    write_json(stage.folder / MANIFEST, manifest)
    (stage.folder / POLICY).write_bytes(b"")
    assert stage.is_done() and RunFolder(stage.folder).damage() is None


def test_a_damaged_policy_is_not_read(stage: RLStage) -> None:
    assert len(players([str(stage.folder)], None, None)) == 1
    spoil(stage.folder / POLICY, "changed")
    for read in (
        lambda: players([str(stage.folder)], None, None),
        lambda: list(continuations(stage.folder, ["the"], 1, 2, 1.0, 0)),
    ):
        with pytest.raises(UserError, match=rf"{POLICY} has changed .*tokencredit train"):
            read()


def test_damaged_logs_are_not_reported(stage: RLStage) -> None:
    assert len(RunFolder.logged(stage.folder).metrics) == 2
    spoil(stage.folder / POLICY, "missing")  # which a report does not read
    RunFolder.logged(stage.folder)
    spoil(stage.folder / "metrics.jsonl", "changed")
    with pytest.raises(UserError, match=r"metrics\.jsonl has changed"):
        RunFolder.logged(stage.folder)


def test_more_steps_than_the_run_has_are_trained_on_it(stage: RLStage) -> None:
    old = exports(stage)
    longer = RLStage(Context(replace(stage.context.config, steps=3)))
    assert longer.key == stage.key and not longer.is_done()
    longer.run(longer.folder)
    assert longer.is_done() and exports(longer)[POLICY] != old[POLICY]
    rows = [json.loads(r) for r in (longer.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert exports(longer)["metrics.jsonl"] == file_sha256(longer.folder / "metrics.jsonl")

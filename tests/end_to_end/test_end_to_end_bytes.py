"""Two stores, filled by two processes that have nothing in common, hold the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from built_stages import furnish, gguf
from preferences import pair_config
from tokencredit.canonical import folder_sha256

from .conftest import QUICK, RATE, SMALL, STEPS, Run, Workplace

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
TIMED = {"results.json", "timings.jsonl"}
"""What holds seconds."""
SHORT = [*SMALL, *QUICK, "evaluation.every=1", "evaluation.prompts=8", "steps=2"]
REVIEWS = ["dataset=file", "dataset.path=reviews.jsonl", *SHORT]
DPO = ["dpo.learning_rate=3e-3", "dpo.batch_size=8"]
LORA = ["model.lora.enabled=true", "model.lora.r=4", "model.value.kind=adapter"]
WIN_RATES = ["experiment=rto/win_rates", "scale=cpu", "hardware=cpu", *REVIEWS]
FEW = ["algorithm.batch_size=8", "rollout.min_new_tokens=4", "rollout.max_new_tokens=12"]
SAMPLED = ["dpo.prompts=32", "dpo.held_out=8", *DPO]
PAIRS = ["dataset=pairs", "dataset.path=pairs.jsonl", "dataset.prompt.min_characters=8", *SHORT]
GGUF = ["model.policy.source=path", "model.policy.path=tiny.gguf", "model.context=64"]
JOBS = {
    "main": [*REVIEWS, RATE],
    "win rates, rto": [*WIN_RATES, "method=rto", *SAMPLED, *FEW],
    "win rates, ppo": [*WIN_RATES, "method=ppo", *FEW],
    "ensemble": [*REVIEWS, RATE, "judge=ensemble", "scorer=judge", "reward_scheme=sparse"],
    "adapters": [*REVIEWS, RATE, "reward_scheme=rto", "dpo.pairs=sampled", *SAMPLED, *LORA],
    "pairs": [*PAIRS, RATE, "reward_scheme=rto", *DPO],
    "pairs with adapters": [*PAIRS, "algorithm=dpo", *DPO, *LORA[:2]],
    "from GGUF": [*PAIRS, *GGUF, "algorithm=sft"],
}
CHILD = """
import json, os, sys, torch
from config.make_snapshots import load
from tokencredit.stages.context import Context
from tokencredit.pipeline.pipeline import all_stages

for name, overrides in json.loads(sys.argv[1]).items():
    config = load(*overrides)
    config.store, config.run_dir = "store", f"runs/{name}"
    torch.set_num_threads(1)
    for stage in all_stages(Context(config)):
        torch.manual_seed(os.getpid())
        stage.build()
"""


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact or of a run, without what is timed."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for timed in ("seconds", "session"):
        found.pop(timed, None)
    exports = found.pop("exports", {})
    return found | {"exports": {n: value for n, value in exports.items() if n not in TIMED}}


def artifacts(store: Path) -> dict[str, dict[str, Any]]:
    """Hashes and manifest of every artifact, by stage and key."""
    found = {}
    for path in sorted(store.glob("*/*/manifest.json")):
        sums = {n: v for n, v in folder_sha256(path.parent).items() if n != path.name}
        found["/".join(path.parent.parts[-2:])] = {"files": sums, "manifest": manifest(path.parent)}
    return found


def start(folder: Path, seed: str) -> subprocess.Popen[str]:
    """A process that builds the stages of every job in `folder`, where its data lie."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(JOBS)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(TESTS), str(TESTS / "helpers"), os.environ.get("PYTHONPATH", "")]
            ),
            "PYTHONHASHSEED": seed,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_every_stage_of_every_job_in_two_processes(tmp_path: Path, reviews: Path) -> None:
    gguf(pair_config(tmp_path), furnish(tmp_path))
    folders = [tmp_path / "one", tmp_path / "another" / "place"]
    children = []
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        shutil.copy(reviews, folder / "reviews.jsonl")
        for name in ("pairs.jsonl", "tiny.gguf"):
            shutil.copy(tmp_path / name, folder)
        children.append(start(folder, str(number + 1)))
    try:
        for child in children:
            _, err = child.communicate(timeout=600)
            assert child.returncode == 0, err[-3000:]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    first, second = (artifacts(folder / "store") for folder in folders)
    assert first.keys() == second.keys()
    for name, found in first.items():
        assert found == second[name], name
    kinds = {name.split("/")[0] for name in first}
    made = {"base_model", "sft", "reward_model", "oracle", "sampled_pairs", "dpo", "evaluation"}
    assert kinds == made
    for job, overrides in JOBS.items():
        runs = [folder / "runs" / job for folder in folders]
        if "algorithm=dpo" in overrides or "algorithm=sft" in overrides:
            assert not runs[0].exists()
            continue
        one, other = (manifest(run) for run in runs)
        assert one == other and one["state"] == "complete"
        assert {"policy/model.safetensors", "metrics.jsonl", "evaluation.jsonl"} <= set(
            one["exports"]
        )
        assert "policy_best/model.safetensors" in one["exports"]


def test_the_main_job_as_two_programs(fresh: Workplace, first: Run, shared: Workplace) -> None:
    """Each stage in a process of its own, as `tokencredit train` has it; `first` is the other one."""
    folder = fresh.folder / "elsewhere"
    folder.mkdir()
    place = replace(fresh, folder=folder, hash_seed="77", anew=True)
    place.train(f"steps={STEPS}", "run.save_every=7", "run.sample_every=10", "run_dir=again").ok()
    theirs, own = artifacts(shared.store), artifacts(place.store)
    assert len(own) == 4 and {name: theirs[name] for name in own} == own
    one, other = manifest(first.folder), manifest(folder / "again")
    assert one == other

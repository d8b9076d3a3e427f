"""Hindsight through the whole program: sampled responses, their outcomes, and RL on credit by them."""

from __future__ import annotations

import json

import pytest

from .conftest import Run, Workplace

pytestmark = pytest.mark.slow

HINDSIGHT = ["dpo.prompts=24", "dpo.held_out=8", "judge.training.batch_size=8"]


def test_a_run_learns_from_hindsight_without_a_critic(own: Workplace) -> None:
    ended = own.train("method=hindsight", *HINDSIGHT, "steps=2", "run_dir=hindsight").ok()
    run = Run(ended, own.folder / "hindsight")
    for row in run.rows():
        assert row["value/mean"] == 0 and row["ppo/policy_loss"] != 0
        assert 0 <= row["judge/outcome"] <= 3 and 0 <= row["judge/lost_mass"] <= 1
        assert row["judge/sum"] != 0
    manifest = run.json("manifest.json")
    assert set(manifest["parents"]) == {"sft", "hindsight", "reward_model", "oracle"}
    folder = own.store / "hindsight" / manifest["parents"]["hindsight"]
    figures = json.loads((folder / "manifest.json").read_text())["figures"]
    assert figures["information_low"] <= figures["information"] <= figures["information_high"]
    assert figures["responses"] <= 48 and (folder / "evaluation.json").is_file()

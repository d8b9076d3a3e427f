"""One command, one finished run: what is in its folder, and that another like it is the same."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tokencredit import config as configuration
from tokencredit.hardware import Hardware
from tokencredit.rl.slices import Kept
from tokencredit.sweeps import objective

from .conftest import STEPS, Run, Workplace

pytestmark = pytest.mark.slow

FILES = (
    "config.yaml manifest.json metrics.jsonl timings.jsonl samples.jsonl results.json report.html "
    "figures/reward.png figures/kl.png policy/config.json policy/model.safetensors "
    "policy/tokenizer.json value/value_head.safetensors"
)
METRICS = (
    "score/mean reward/mean judge/sum kl/k1 kl/k3 kl/coef length/mean credit/entropy "
    "credit/eos_share value/loss ppo/clip_fraction ppo/ratio_max_dev optimizer/learning_rate"
)


def test_run_folder_holds_what_the_design_says(first: Run) -> None:
    for name in FILES.split():
        assert (first.folder / name).stat().st_size > 0, name
    assert not list(first.folder.rglob("*.partial"))
    assert not list(first.folder.rglob("*.tmp"))
    checkpoints = [path.name for path in (first.folder / "checkpoints").iterdir()]
    assert checkpoints == [f"step-{STEPS:06d}"]
    manifest = first.json("manifest.json")
    assert manifest["state"] == "complete"
    assert manifest["seeds"] == {"seed": 0, "stage_seed": 0}
    assert manifest["arithmetic"] == Hardware().arithmetic()
    assert set(manifest["parents"]) == {"sft", "reward_model", "oracle"}
    assert set(manifest["fingerprints"]) == {"sft", "reward", "rl", "oracle", "eval"}


def test_every_step_is_logged_once_and_its_ratios_start_at_one(first: Run) -> None:
    rows = first.rows()
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert [row["step"] for row in first.rows("timings.jsonl")] == list(range(STEPS))
    for row in rows:
        for name in METRICS.split():
            assert math.isfinite(row[name]), name
        assert 0 <= row["ppo/ratio_max_dev"] < 1e-5
        assert not any("seconds" in name for name in row), "metrics hold deterministic values only"
    assert rows[0]["kl/k1"] == pytest.approx(0, abs=1e-6), "policy and reference begin equal"
    assert rows[-1]["kl/k3"] > 0, "the policy has moved"


def test_samples_carry_a_number_for_every_token(first: Run) -> None:
    rows = first.rows("samples.jsonl")
    assert sorted({row["step"] for row in rows} - {STEPS - 1}) == [0, 10]
    for row in rows:
        counts = {
            len(row[name]) for name in ("tokens", "rewards", "shaped", "kl", "values", "advantages")
        }
        assert counts == {len(row["tokens"])}
        assert sum(row["rewards"]) == pytest.approx(row["score"], abs=1e-4)
        assert 8 <= len(row["tokens"]) <= 15 or row["tokens"][-1] == "<|endoftext|>"
        assert len(row["prompt"]) > 0


def test_results_follow_their_schema(first: Run) -> None:
    results = first.json("results.json")
    kinds = {
        "schema_version": int,
        "config_hash": str,
        "scheme": str,
        "seeds": dict,
        "status": str,
        "wall_seconds": float,
        "metrics": dict,
        "evaluation": dict,
    }
    for name, kind in kinds.items():
        assert isinstance(results[name], kind), name
    assert {"experiment", "git_commit"} <= set(results)
    assert results["status"] == "complete"
    assert results["scheme"] == "abc" and results["scale"] is None
    assert results["config_hash"] == first.json("manifest.json")["key"]
    last = [row["score/mean"] for row in first.rows()[-10:]]
    assert results["metrics"]["score/mean"]["mean"] == pytest.approx(sum(last) / 10, rel=1e-5)
    assert results["metrics"]["score/mean"]["n"] == 10
    config = configuration.read(first.folder / "config.yaml")
    assert set(objective.names(config)) == set(objective.measures(first.folder))
    for name in ("policy/score", "sft/score", "policy/oracle", "sft/oracle", "policy/kl"):
        measure = results["evaluation"][name]
        assert set(measure) == {"mean", "se", "n"}
        assert measure["n"] == 16


def test_summary_names_scores_times_places_and_budget(first: Run) -> None:
    out = first.ended.out
    for part in ("95 % interval", "where things lie", "results.json", "policy", "budget:", "sft"):
        assert part in out
    assert f"{STEPS} RL steps" in out


def test_field_B36_exported_policy_is_a_plain_model_and_the_value_head_reloads(first: Run) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, info = AutoModelForCausalLM.from_pretrained(
        first.folder / "policy", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind]
    tokenizer = AutoTokenizer.from_pretrained(first.folder / "policy")
    assert tokenizer.eos_token_id not in {None, tokenizer.pad_token_id}
    trained = Kept(next((first.folder / "checkpoints").iterdir())).weights()
    head = load_file(first.folder / "value" / "value_head.safetensors")
    for name, tensor in head.items():
        (saved,) = [value for key, value in trained.items() if key == f"value_head.{name}"]
        assert torch.equal(saved, tensor)
    exported = dict(policy.named_parameters())
    compared = 0
    for key, value in trained.items():
        name = key.removeprefix("model.")
        if not key.startswith("value_head."):
            assert torch.equal(exported[name], value), name
            compared += 1
    assert compared == len(exported)


def test_config_of_a_run_is_what_it_was_run_with(first: Run, shared: Workplace) -> None:
    configuration.register()
    config = configuration.read(first.folder / "config.yaml")
    assert config.steps == STEPS
    assert Path(config.store) == shared.store
    assert config.model.architecture.vocab_size == 400


def test_field_B38_two_runs_are_equal_byte_for_byte_and_another_seed_is_not(
    own: Workplace, first: Run
) -> None:
    arguments = [f"steps={STEPS}", "run.sample_every=10", "run.save_every=5"]
    again = own.train(*arguments, "tracking=offline", "run_dir=again").ok()
    second = Run(again, own.folder / "again")
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert second.bytes(name) == first.bytes(name)
    assert second.json("results.json")["evaluation"] == first.json("results.json")["evaluation"]
    assert second.bytes("policy/model.safetensors") == first.bytes("policy/model.safetensors")
    for stage in ("base_model", "sft", "reward_model", "oracle"):
        assert f"{stage} " in again.err
        assert "reused" in again.err
    assert list((own.folder / "again").glob("wandb/**/*.wandb")), "the offline mirror was written"
    other = Run(own.train("steps=2", "seed=1", "run_dir=other").ok(), own.folder / "other")
    prompts = {
        tuple(row["prompt"] for row in run.rows("samples.jsonl")[:8]) for run in (first, other)
    }
    assert len(prompts) == 2
    assert other.rows()[0]["score/mean"] != first.rows()[0]["score/mean"]


def test_raising_steps_continues_and_fewer_are_done(own: Workplace, first: Run) -> None:
    def go(steps: int) -> Run:
        return Run(own.train(f"steps={steps}", "run_dir=grown").ok(), own.folder / "grown")

    three = go(3)
    policy = three.bytes("policy/model.safetensors")
    five = go(5)
    assert "continues at step 3" in five.ended.err
    assert five.bytes() == b"".join(line + b"\n" for line in first.bytes().splitlines()[:5])
    assert five.json("results.json")["steps"] == 5
    assert five.bytes("policy/model.safetensors") != policy, "the exported policy is the last one"
    assert five.json("manifest.json")["state"] == "complete"
    written = {path: path.stat().st_mtime_ns for path in five.folder.rglob("*")}
    two = go(2)
    assert "complete" in two.ended.err
    assert len(two.rows()) == 5
    assert written == {path: path.stat().st_mtime_ns for path in five.folder.rglob("*")}


def test_run_is_found_again_under_its_key(own: Workplace) -> None:
    """Without run_dir the folder is named by content: hardware, tracking, and cadences do not move it."""
    own.train("steps=1", "run.experiment=null").ok()
    (folder,) = (own.folder / "runs" / "abc").iterdir()
    before = own.plan("steps=1")
    assert "5 hits, 0 misses" in before.out
    again = own.train("steps=1", "run.save_every=1", "run.samples=0", "tracking=offline").ok()
    assert "complete" in again.err
    assert [path.name for path in (own.folder / "runs" / "abc").iterdir()] == [folder.name]
    more = own.plan("steps=2")
    assert "4 hits, 1 misses" in more.out
    assert "1 of 2 steps" in more.out
    other = own.plan("steps=1", "reward_scheme.beta=0.5")
    assert folder.name not in other.out


def test_generate_and_report_read_a_finished_run(own: Workplace, first: Run) -> None:
    once, twice = (
        own.run(
            "generate",
            str(first.folder),
            "--prompt",
            "The film",
            "--prompt",
            "Story",
            "--samples",
            "2",
            "--seed",
            "3",
        ).ok()
        for _ in range(2)
    )
    assert once.out == twice.out
    assert sum(line.startswith("The film") for line in once.out.splitlines()) >= 1
    assert "Story" in once.out
    report = own.run("report", str(first.folder)).ok()
    assert "where things lie" in report.out
    assert "Traceback" not in report.err


@pytest.mark.parametrize("command", ["generate", "report"])
def test_tools_say_what_is_no_run(own: Workplace, command: str) -> None:
    extra = ["--prompt", "x"] if command == "generate" else []
    assert "nowhere" in own.run(command, "nowhere", *extra).error()


def test_results_are_plain_json(first: Run) -> None:
    text = (first.folder / "results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)

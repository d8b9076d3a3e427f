"""Parts of a run that are off by default, each through the whole program."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from learning import equal

from .conftest import Run, Workplace

pytestmark = pytest.mark.slow


def test_held_out_evaluation_and_the_best_policy(first: Run, own: Workplace) -> None:
    """`evaluation.every=6` is among the shared arguments."""
    rows = first.rows()
    evaluated = [row["step"] for row in rows if "eval/score" in row]
    assert evaluated == [0, 6, 12]
    scores = {row["step"]: row["eval/score"] for row in rows if "eval/score" in row}
    # Before the first update the policy is the SFT model, on the same prompts with the same noise.
    results = first.json("results.json")["evaluation"]
    for name in ("score", "oracle", "distinct_2"):
        assert rows[0][f"eval/{name}"] == pytest.approx(results[f"sft/{name}"]["mean"], abs=1e-6)
    assert rows[0]["eval/kl"] == pytest.approx(0, abs=1e-5)
    last = next(row for row in rows if row["step"] == 12)
    best = max(scores, key=lambda step: scores[step])
    assert (last["eval/best_step"], last["eval/best_score"]) == (best, scores[best])
    # What is kept is the policy of that step: a run that ends there has it as its last.
    if best:
        short = Run(own.train(f"steps={best}", "run_dir=short").ok(), own.folder / "short")
        kept = load_file(first.folder / "policy_best" / "model.safetensors")
        assert equal(kept, load_file(short.folder / "policy" / "model.safetensors"))


def test_scores_in_units_of_the_reference(first: Run, own: Workplace) -> None:
    ended = own.train("steps=3", "algorithm.normalise=reference", "run_dir=normal").ok()
    rows = Run(ended, own.folder / "normal").rows()
    mean, sd = rows[0]["score/reference_mean"], rows[0]["score/reference_sd"]
    assert sd > 0 and all(row["score/reference_sd"] == sd for row in rows)
    for row in rows:  # the schemes pay what is left of a score
        assert row["reward/mean"] == pytest.approx((row["score/mean"] - mean) / sd, abs=1e-4)
    assert rows[0]["score/mean"] == first.rows()[0]["score/mean"]  # logged as the scorer gave it


def test_nucleus_sampling_keeps_ratios_at_one(own: Workplace) -> None:
    ended = own.train("steps=2", "rollout.top_p=0.9", "run_dir=nucleus").ok()
    run = Run(ended, own.folder / "nucleus")
    assert all(row["ppo/ratio_max_dev"] < 1e-5 for row in run.rows())
    assert all(row["rollout/kept_bytes"] > 0 for row in run.rows("timings.jsonl"))
    assert "warning" not in ended.err
    ended = own.train(
        "steps=1", "rollout.top_p=0.9", "rollout.logprob_mask=full", "run_dir=full"
    ).ok()
    assert "warning: rollout.logprob_mask" in ended.err


@pytest.mark.parametrize(
    "choices",
    [
        ["reward_scheme=abc_d", "model.lora.enabled=true"],
        ["reward_scheme=abc_d2", "judge.shift=authors"],
    ],
    ids=" ".join,
)
def test_policy_attention_trains_and_continues(own: Workplace, choices: list[str]) -> None:
    """Stopped after one step and continued, the log is that of one go: the policy is read anew."""
    choices = [*choices, "run.save_every=1"]
    straight = Run(own.train(*choices, "steps=3", "run_dir=go").ok(), own.folder / "go")
    own.train(*choices, "steps=1", "run_dir=cut").ok()
    cut = Run(own.train(*choices, "steps=3", "run_dir=cut").ok(), own.folder / "cut")
    assert len(straight.rows()) == 3 and cut.bytes() == straight.bytes()
    for row in straight.rows():
        assert row["reward/mean"] == pytest.approx(row["score/mean"], abs=1e-4)
        assert row["judge/sum"] > 0 and row["credit/single_fraction"] == 0


@pytest.mark.parametrize(
    ("scheme", "setting", "count"),
    [("abc", "heads=[2]", "2 attention heads"), ("abc_d", "layer=4", "2 attention layers")],
)
def test_a_head_or_layer_that_is_missing_is_refused_before_any_step(
    own: Workplace, scheme: str, setting: str, count: str
) -> None:
    error = own.train(f"reward_scheme={scheme}", f"judge.{setting}").error()
    assert f"judge.{setting.replace('=', ' = ')}: the model has {count}" in error
    assert not list(own.folder.rglob("checkpoints/*"))


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "remax", "ppo_penalty"])
def test_every_algorithm_trains_and_continues(own: Workplace, algorithm: str) -> None:
    """Stopped after two steps and continued, the log is that of one go."""
    name = [f"algorithm={algorithm}", "run.save_every=1"]
    straight = Run(own.train(*name, "steps=4", "run_dir=go").ok(), own.folder / "go")
    own.train(*name, "steps=2", "run_dir=cut").ok()
    cut = Run(own.train(*name, "steps=4", "run_dir=cut").ok(), own.folder / "cut")
    assert len(straight.rows()) == 4 and cut.bytes() == straight.bytes()


@pytest.mark.parametrize("preset", ["ppo_trl", "ppo_deepspeed_chat", "ppo_openrlhf"])
def test_every_dialect_trains(own: Workplace, preset: str) -> None:
    short = ["rollout.min_new_tokens=4", "rollout.max_new_tokens=12", "dataset.prompt.max_tokens=8"]
    ended = own.train(f"algorithm={preset}", *short, "steps=2", "run_dir=dialect").ok()
    run = Run(ended, own.folder / "dialect")
    assert len(run.rows()) == 2
    assert all(row["ppo/ratio_max_dev"] < 1e-5 for row in run.rows())


def test_idle_processes_are_announced(own: Workplace) -> None:
    ended = own.train("steps=1", "hardware=cpu_ddp2", "run_dir=idle").ok()
    assert "rollout.chunk=8 keeps all busy" in ended.err

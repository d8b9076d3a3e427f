"""Other data, other models: conversations, prompts with completions, LoRA, stages that are reused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from strangers import stranger
from tokencredit.rl.slices import Kept

from .conftest import BAD, GOOD, Run, Workplace, read_jsonl, review, write_jsonl
from .test_end_to_end_refusals import chat, edit_json

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
JUDGE = "def score(prompts, responses): return [float(p.count('film')) for p in prompts]\n"


def sha256(path: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_second_scheme_reuses_every_stage(own: Workplace) -> None:
    ended = own.train("reward_scheme=uniform", "steps=1", "run_dir=second").ok()
    for stage in ("base_model", "sft", "reward_model", "oracle"):
        assert any(
            line.startswith(f"{stage} ") and line.endswith("reused")
            for line in ended.err.splitlines()
        )


def test_damaged_artifact_is_rebuilt_with_a_message(
    shared: Workplace, first: Run, fresh: Workplace
) -> None:
    shutil.copytree(shared.store / "base_model", fresh.store / "base_model")
    # Other tests may have left the SFT models of other settings beside it.
    sft = Path("sft") / first.json("manifest.json")["parents"]["sft"]
    shutil.copytree(shared.store / sft, fresh.store / sft)
    weights = fresh.store / sft / "model.safetensors"
    before, content = sha256(weights), bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    plan = fresh.supervised().plan()
    assert "1 hits, 1 misses" in plan.out
    assert "model.safetensors has changed" in plan.out + plan.err
    ended = fresh.supervised().train().ok()
    for part in (str(weights.parent), "damaged", "model.safetensors has changed", "rebuilt"):
        assert part in ended.err
    assert sha256(weights) == before, "a stage gives the same bytes again"
    assert "2 hits, 0 misses" in fresh.supervised().plan().out


def test_plan_says_what_differs_and_survives_a_broken_manifest(
    own: Workplace, shared: Workplace, first: Run, fresh: Workplace
) -> None:
    shutil.copytree(shared.store, fresh.store)
    sft = fresh.store / "sft" / first.json("manifest.json")["parents"]["sft"]
    for other in sft.parent.glob("*/manifest.json"):  # of other tests' settings
        if other.parent != sft:
            shutil.rmtree(other.parent)
    plan = fresh.plan("sft.learning_rate=2e-3")
    assert "inputs.sft.learning_rate: 0.001 → 0.002" in plan.out
    assert "3 hits, 2 misses" in plan.out
    manifest = sft / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    assert "miss  sft" in fresh.plan("sft.learning_rate=2e-3").out


def test_lora_trains_exports_a_merged_policy_and_resumes(own: Workplace) -> None:
    from transformers import AutoModelForCausalLM

    lora = ["model.lora.enabled=true", "model.lora.r=4", "run.sample_every=1"]

    def go(steps: int, folder: str) -> Run:
        return Run(
            own.train(*lora, f"steps={steps}", f"run_dir={folder}").ok(), own.folder / folder
        )

    straight = go(4, "straight")
    for row in straight.rows():
        assert row["ppo/ratio_max_dev"] < 1e-5
    assert straight.rows()[-1]["kl/k3"] > 0
    go(2, "resumed")
    resumed = go(4, "resumed")
    assert "continues at step 2" in resumed.ended.err
    for name in (
        "metrics.jsonl",
        "samples.jsonl",
        "policy/model.safetensors",
        "value/value_head.safetensors",
    ):
        assert resumed.bytes(name) == straight.bytes(name)
    policy, info = AutoModelForCausalLM.from_pretrained(
        straight.folder / "policy", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not [name for name, _ in policy.named_parameters() if "lora" in name]
    (checkpoint,) = (straight.folder / "checkpoints").iterdir()
    kept = sum(weight.numel() for weight in Kept(checkpoint).weights().values())
    assert kept < sum(weight.numel() for weight in policy.parameters())
    said = own.run("generate", "straight", "--prompt", "The film", "--max-new-tokens", "4").ok()
    assert said.out.startswith("The film")


def test_field_E3_a_reward_model_of_another_vocabulary_pays_the_policys_tokens(
    own: Workplace,
) -> None:
    folder = stranger(own.folder, "wordpiece")
    reward = [
        "reward_model.train=false",
        "model.reward.source=path",
        f"model.reward.path={folder}",
        "algorithm.batch_size=16",
    ]
    refused = own.train(*reward, "steps=1").error()
    assert "vocabulary differs" in refused and "model.reward_reads=text" in refused
    own.train(*reward, "model.reward_reads=text", "steps=2", "run_dir=other").ok()
    rows = read_jsonl(own.folder / "other" / "metrics.jsonl")
    assert len(rows) == 2
    for row in rows:
        assert row["reward/mean"] == pytest.approx(row["score/mean"], abs=1e-5)
        assert row["judge/shortened_fraction"] == 0 and 0 <= row["judge/unaligned_fraction"] <= 1
        assert 0 < row["judge/sum"] < 1 and row["credit/eos_share"] < 1
    samples = read_jsonl(own.folder / "other" / "samples.jsonl")
    assert samples and all(len(row["rewards"]) == len(row["tokens"]) for row in samples)


def test_conversations_run_end_to_end(own: Workplace, first: Run) -> None:
    model = Path(shutil.copytree(first.folder / "policy", own.folder / "chat_model"))
    edit_json(model / "tokenizer_config.json", chat_template=TEMPLATE)
    rows = [{"messages": chat(number), "label": number % 2} for number in range(200)]
    data = write_jsonl(own.folder / "chat.jsonl", rows)
    ended = own.train(
        "model.policy.source=path", f"model.policy.path={model}", f"dataset.path={data}",
        "dataset.format=messages", "steps=2", "run_dir=chat",
    )  # fmt: skip
    run = Run(ended.ok(), own.folder / "chat")
    for row in run.rows("samples.jsonl"):
        assert row["prompt"].startswith("user: What did you think of film")
        assert row["prompt"].rstrip(" ").endswith("assistant:")
    assert run.rows()[0]["ppo/ratio_max_dev"] < 1e-5
    assert json.loads((run.folder / "policy" / "tokenizer_config.json").read_text()) is not None


def test_prompts_with_completions_run_end_to_end_without_labels(own: Workplace) -> None:
    rows = [
        {"prompt": f"The film number {number}", "completion": f" {review(number, 8)['text']}"}
        for number in range(200)
    ]
    data = write_jsonl(own.folder / "pairs.jsonl", rows)
    (own.folder / "score.py").write_text(JUDGE)
    ended = own.train(
        f"dataset.path={data}", "dataset.format=prompt_completion", "dataset.label_column=null",
        "oracle.enabled=false", "judge=function", "judge.function=score.py:score", "reward_scheme=sparse",
        "steps=2", "run_dir=pairs",
    )  # fmt: skip
    run = Run(ended.ok(), own.folder / "pairs")
    prompts = {row["prompt"] for row in rows}
    for row in run.rows("samples.jsonl"):
        assert row["prompt"] in prompts
        assert row["score"] == 1
    assert set(run.json("manifest.json")["parents"]) == {"sft"}


def test_pairs_run_end_to_end(own: Workplace) -> None:
    """SFT on what was preferred, a Bradley–Terry reward model, RL paid by it, an oracle of pairs."""
    rows = [
        {
            "prompt": f"Say number {n}:",
            "chosen": f" {GOOD[n % 9]} it is",
            "rejected": f" {BAD[n % 7]}",
        }
        for n in range(200)
    ]
    data = write_jsonl(own.folder / "pairs.jsonl", [*rows, {**rows[0], "rejected": ""}])
    ended = own.train(
        "dataset=pairs", f"dataset.path={data}", "sft.max_length=64", "reward_model.max_length=64",
        "reward_model.centre=0.01", "dataset.prompt.max_prompt_tokens=40", "steps=2", "run_dir=paired",
    )  # fmt: skip
    run = Run(ended.ok(), own.folder / "paired")
    manifest = run.json("manifest.json")
    assert set(manifest["parents"]) == {"sft", "reward_model", "oracle"}
    assert manifest["dropped"] == {"empty response": 1} and manifest["filtered"] == {}
    reward = own.store / "reward_model" / manifest["parents"]["reward_model"]
    figures = json.loads((reward / "manifest.json").read_text("utf-8"))["figures"]
    assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
    assert (
        json.loads((reward / "evaluation.json").read_text("utf-8"))["pairs"] == figures["held_out"]
    )
    assert json.loads((reward / "config.json").read_text("utf-8"))["pad_token_id"] is not None
    prompts = {row["prompt"] for row in rows}
    assert {row["prompt"] for row in run.rows("samples.jsonl")} <= prompts
    assert run.rows()[0]["ppo/ratio_max_dev"] < 1e-5


def test_supervised_only_stops_after_sft_and_can_be_left_out(own: Workplace) -> None:
    ended = own.supervised().train().ok()
    assert "sft" in ended.out
    assert "reward_model" not in ended.err
    (left,) = (own.folder / "runs").glob("*/*")
    assert left.parent.name == "sft" and (left / "stage.json").is_file()
    assert not (left / "metrics.jsonl").exists()
    plan = own.supervised().plan("sft.train=false").out
    assert "1 hits, 1 misses" in plan
    keys = dict(line.split()[1:3] for line in plan.splitlines() if line.startswith(("hit", "miss")))
    own.supervised().train("sft.train=false").ok()
    base, untouched = (
        load_file(own.store / stage / keys[stage] / "model.safetensors")
        for stage in ("base_model", "sft")
    )
    assert base.keys() == untouched.keys()
    assert all(value.equal(base[name]) for name, value in untouched.items())

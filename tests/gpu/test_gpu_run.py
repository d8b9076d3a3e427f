"""The same program on a CUDA device: what is computed there is what is computed on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attention_models import CAUSAL, VOCABULARY, decoder
from builders import (
    PAD_ID,
    make_prompts,
    make_rollout,
    tiny_actors,
    tiny_classifier,
    write_reviews,
)
from learning import TASK, targets_at
from tokencredit.hardware import Device, Hardware
from tokencredit.models.actors import Actors
from tokencredit.models.attention.row import AttentionRow
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.scorer import Scorer
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World
from tokencredit.rollout import Prompts, Rollout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(actors: Actors) -> Actors:
    actors.policy.cuda()
    assert actors.reference.frozen is not None
    actors.reference.frozen.cuda()
    return actors


def prompts() -> Prompts:
    return make_prompts([2, 5, 3, 4, 2, 6, 3, 4] * 4, max_new=[4, 9, 6, 3, 8, 5, 7, 6] * 4)


def both(sampling: Sampling | None = None) -> tuple[Rollout, Rollout]:
    """The same prompts answered on the CPU and on the GPU."""
    cpu, gpu = tiny_actors(sampling=sampling), on_gpu(tiny_actors(sampling=sampling))
    return cpu.roll_out(prompts(), ("gpu",)), gpu.roll_out(prompts().to("cuda"), ("gpu",)).to("cpu")


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=20, top_p=0.9)], ids=["all", "nucleus"]
)
def test_keyed_noise_draws_the_same_tokens_there(sampling: Sampling) -> None:
    cpu, gpu = both(sampling)
    same = [
        bool(a) and torch.equal(x, y)
        for a, x, y in zip(
            cpu.lengths == gpu.lengths, cpu.response_ids, gpu.response_ids, strict=False
        )
    ]
    assert sum(same) / len(same) >= 0.9  # rounding may decide between two nearly equal tokens


def test_scores_of_the_same_responses_are_the_same() -> None:
    cpu, gpu = tiny_actors(), on_gpu(tiny_actors())
    said = cpu.roll_out(prompts(), ("gpu",))
    again = gpu.score(said.to("cuda")).to("cpu")
    for name in ("logp", "ref_logp", "values"):
        assert torch.allclose(getattr(said, name), getattr(again, name), atol=1e-4), name


def test_ratio_is_one_on_the_first_minibatch() -> None:
    actors = on_gpu(tiny_actors())
    engine = Engine(actors.policy, TASK, World(Hardware(device=Device.cuda)))
    updater = Updater(engine, TASK, seed=5)
    rollout = actors.roll_out(prompts()[torch.arange(8)].to("cuda"), ("gpu",)).to("cpu")
    state = TASK.initial_state()
    before = actors.policy.value_head.weight.detach().clone()
    found = updater.update(rollout, targets_at(TASK, rollout, state), state, 0)
    assert found["ppo/ratio_max_dev"] <= 1e-5
    assert actors.policy.value_head.weight.is_cuda
    assert not torch.equal(before, actors.policy.value_head.weight)


def test_reward_model_and_attention_row_say_the_same_there() -> None:
    rollout = make_rollout([4, 1, 9, 3])
    cpu = Scorer(tiny_classifier(), PAD_ID).score_and_attention(rollout, -1)
    gpu = Scorer(tiny_classifier().cuda(), PAD_ID).score_and_attention(rollout.to("cuda"), -1)
    for a, b in zip(cpu, gpu, strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-4)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_an_attention_row_equals_eager_attention_there(architecture: str) -> None:
    model = decoder(architecture).cuda()
    ids = torch.randint(2, VOCABULARY, (3, 12), device="cuda")
    rows = torch.tensor([11, 7, 4], device="cuda")
    reader = AttentionRow(model)
    with torch.no_grad(), reader.capture(rows):
        model(ids)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(ids, output_attentions=True).attentions[-1]
    wanted = maps[torch.arange(3, device="cuda"), :, rows]
    assert torch.allclose(reader.weights, wanted, atol=1e-5)


ARGUMENTS = [
    "model=scratch",
    "model.architecture.vocab_size=400",
    "model.architecture.hidden_size=32",
    "model.architecture.heads=2",
    "model.context=128",
    "dataset=file",
    "dataset.prompt.min_characters=20",
    "sft.max_tokens=3000",
    "reward_model.max_tokens=3000",
    "evaluation.prompts=16",
    "run.figures=false",
    "run.save_every=2",
    "tracking=disabled",
    "hardware=gpu",
]


def trained(folder: Path, *arguments: str) -> Path:
    """`tokencredit train` on the device; the run's folder."""
    folder.mkdir(exist_ok=True)
    data = write_reviews(folder.parent / "reviews.jsonl")
    command = [sys.executable, "-m", "tokencredit.cli", "train", *ARGUMENTS]
    run = folder / "run"
    done = subprocess.run(
        [*command, f"dataset.path={data}", f"run_dir={run}", *arguments],
        cwd=folder,
        env={**os.environ, "TOKENCREDIT_STORE": str(folder.parent / "store")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_a_run_on_the_device_repeats_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", "steps=4")
    part = trained(tmp_path / "part", "steps=2")
    part = trained(tmp_path / "part", "steps=4")
    for name in ("metrics.jsonl", "samples.jsonl", "policy/model.safetensors"):
        assert (whole / name).read_bytes() == (part / name).read_bytes(), name
    assert json.loads((part / "manifest.json").read_text())["state"] == "complete"


def test_bfloat16_and_checkpointed_activations_run_there(tmp_path: Path) -> None:
    run = trained(
        tmp_path / "narrow",
        "steps=2",
        "model.autocast=bfloat16",
        "hardware.gradient_checkpointing=true",
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["ppo/ratio_max_dev"] < 0.05 for row in rows)

"""SFT and the reward model on four-bit weights: real trainers, and a plain model as the result."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders import tiny_causal, tiny_classifier, train_tokenizer, write_reviews
from built_stages import build, furnish, stage_of
from preferences import furnish_pairs, pair_config
from quantised import ON_CPU, QLORA, qlora_config
from tokencredit.canonical import canonical
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.models.adapters.lora import adapted, merged
from tokencredit.models.loading.model import Dtype, ModelSource, Pretrained
from tokencredit.models.loading.quantization import NF4, Quantization
from tokencredit.models.loading.weights import load_causal, load_classifier
from tokencredit.settings import DPO, SFT, RewardModel
from tokencredit.stages import discriminator as discriminator_module
from tokencredit.stages import dpo as dpo_module
from tokencredit.stages.context import Context
from tokencredit.stages.discriminator import DiscriminatorStage
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.rl import RLStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    write_reviews(folder / "reviews.jsonl")
    tiny_causal("gpt2").save_pretrained(folder / "model")
    train_tokenizer().save_pretrained(folder / "model")
    return folder


def config_of(place: Path, **model: Any) -> Config:
    source = Pretrained(source=ModelSource.path, path=str(place / "model"), name=None)
    config = qlora_config(policy=source, **model)
    config.dataset = Dataset(
        source=Source.path,
        path=str(place / "reviews.jsonl"),
        prompt=PromptSpec(min_characters=20),
    )
    config.sft = SFT(learning_rate=3e-2, batch_size=8, max_tokens=2000)
    config.reward_model = RewardModel(
        learning_rate=1e-2, batch_size=8, epochs=6, max_length=64, held_out=40
    )
    return config


def ran(stage: Stage, out: Path) -> Any:
    out.mkdir()
    return stage.run(out)


def test_sft_writes_the_model_that_was_trained(place: Path, tmp_path: Path) -> None:
    figures = ran(SFTStage(Context(config_of(place))), tmp_path / "sft")
    assert figures["steps"] > 2 and 0 < figures["loss"] < 20
    found = load_file(tmp_path / "sft" / "model.safetensors")
    base = merged(adapted(load_causal(place / "model", Dtype.float32, quantized=ON_CPU), QLORA))
    before = {n: p for n, p in base.state_dict().items() if n in found}
    assert len(before) == len(found) >= 20
    changed = {n for n, p in found.items() if not torch.allclose(p, before[n].float(), atol=1e-6)}
    assert changed == {f"transformer.h.{layer}.attn.c_attn.weight" for layer in (0, 1)}
    assert {p.dtype for p in found.values()} == {torch.float32}
    step = max(float((found[n] - before[n]).abs().max()) for n in changed)
    assert 1e-3 < step < 1
    load_causal(tmp_path / "sft", Dtype.float32, quantized=ON_CPU)  # where RL begins


def test_a_reward_model_is_trained_head_and_all(place: Path, tmp_path: Path) -> None:
    figures = ran(RewardModelStage(Context(config_of(place))), tmp_path / "reward")
    assert figures["loss"] < 0.69 and figures["accuracy"] > 0.85
    model: Any = load_classifier(tmp_path / "reward", Dtype.float32)
    fresh: Any = tiny_classifier("gpt2")
    assert model.score.weight.shape == fresh.score.weight.shape
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_sft_that_trains_nothing_leaves_weights_as_they_are(place: Path, tmp_path: Path) -> None:
    config = config_of(place)
    config.sft.train = False
    ran(SFTStage(Context(config)), tmp_path / "sft")
    found = load_file(tmp_path / "sft" / "model.safetensors")
    given = load_file(place / "model" / "model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in given.items())


def keys(config: Config) -> dict[str, str]:
    stage = RLStage(Context(config))
    return {"rl": stage.key, **{role: parent.key for role, parent in stage.parents().items()}}


def test_keys_change_where_results_do(place: Path) -> None:
    plain = keys(config_of(place, quantization=Quantization.none))
    four = keys(config_of(place))
    assert {name for name in plain if plain[name] != four[name]} == {"sft", "reward_model", "rl"}
    other = keys(config_of(place, nf4=NF4(double_quantization=False)))
    assert {name for name in four if four[name] != other[name]} == {"sft", "reward_model", "rl"}
    same = keys(
        config_of(place, quantization=Quantization.none, nf4=NF4(double_quantization=False))
    )
    assert same == plain
    finished = []
    for quantization in Quantization:
        config = config_of(place, quantization=quantization)
        config.sft.train = config.reward_model.train = False
        finished.append(keys(config))
    one, two = finished
    assert {name for name in one if one[name] != two[name]} == {"rl"}
    model = canonical(config_of(place, quantization=Quantization.none).model)
    assert isinstance(model, dict) and "quantization" not in model


def paired(place: Path) -> Config:
    """The same models on pairs of answers."""
    furnish_pairs(place)
    config = replace(pair_config(place, max_length=64, epochs=3.0), sft=SFT(max_tokens=2000))
    config.model = config_of(place).model
    config.dpo = DPO(learning_rate=1e-2, batch_size=8, max_length=64, epochs=3.0)
    return config


def test_a_reward_model_learns_from_pairs_on_four_bits(tmp_path: Path) -> None:
    """TRL's trainer would leave adapters and head in bfloat16, which the float32 states refuse."""
    figures = ran(RewardModelStage(Context(paired(tmp_path))), tmp_path / "reward")
    assert figures["loss"] < 0.69 and figures["accuracy"] > 0.85
    found = load_file(tmp_path / "reward" / "model.safetensors")
    assert {p.dtype for p in found.values()} == {torch.float32}


def test_dpo_trains_an_adapter_of_the_four_bit_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = paired(tmp_path)
    config.store = str(tmp_path / "store")
    context = Context(config)
    read: list[bool] = []
    real = dpo_module.load_causal

    def noted(*args: Any, **options: Any) -> Any:
        read.append(options.get("quantized") is not None)
        return real(*args, **options)

    monkeypatch.setattr(dpo_module, "load_causal", noted)
    context.store.build(SFTStage(context))
    figures = ran(DPOStage(context), tmp_path / "dpo")
    assert read == [True]
    assert figures["held_out_loss"] < 0.69 and figures["accuracy"] > 0.85
    found = load_file(tmp_path / "dpo" / "adapter_model.safetensors")
    assert {p.dtype for p in found.values()} == {torch.float32}
    plain = paired(tmp_path)
    plain.model = config_of(tmp_path, quantization=Quantization.none).model
    assert DPOStage(context).key != DPOStage(Context(plain)).key


def test_a_discriminator_learns_on_four_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stage_of("discriminator", furnish(tmp_path), tmp_path / "store").context.config
    judge = config.judge
    assert isinstance(judge, DiscriminatorJudge)
    training = replace(judge.training, learning_rate=1e-2, epochs=4.0)
    model = replace(config.model, quantization=Quantization.nf4, lora=QLORA)
    config = replace(config, judge=replace(judge, training=training), model=model)
    read: list[bool] = []
    real = discriminator_module.load_classifier

    def noted(*args: Any, **options: Any) -> Any:
        read.append(args[4] is not None)
        return real(*args, **options)

    monkeypatch.setattr(discriminator_module, "load_classifier", noted)
    stage = DiscriminatorStage(Context(config))
    figures = build(stage).manifest["figures"]
    assert read == [True]
    assert figures["curve"]["loss"][-1] < 2 * math.log(2)  # all logits 0: ln 2 an answer
    found = load_file(stage.folder / "model.safetensors")
    assert {p.dtype for p in found.values()} == {torch.float32}
    assert not any("lora" in name for name in found)
    plain = replace(config, model=replace(model, quantization=Quantization.none))
    assert DiscriminatorStage(Context(plain)).key != stage.key

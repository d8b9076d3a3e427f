"""Four-bit weights: what they stand for, what is left as it is, what they take, what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from builders import tiny_classifier
from quantised import NAMES, ON_CPU, QLORA, packed_bits, qlora_actors, qlora_config, same, saved
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import Lora, adapted, in_float32, merged, merged_copy
from tokencredit.models.loading.model import Dtype, Model
from tokencredit.models.loading.quantization import (
    NF4,
    ComputeFormat,
    Quantization,
    Quantized,
    dequantized_weight,
    is_quantized,
    quantized_layers,
)
from tokencredit.models.loading.trunk import head_of
from tokencredit.models.loading.weights import load_causal, load_classifier
from tokencredit.models.value import Value, ValueKind
from tokencredit.preflight.checks import check_machine

every_architecture = pytest.mark.parametrize("architecture", NAMES)
LEVELS = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
"""The sixteen values of NF4 (Dettmers et al. 2023, appendix E)."""


def only_layer(weight: Tensor, double: bool) -> Any:
    """A quantised layer with this weight (64 n, m)."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.model.layers[0].self_attn.q_proj.weight.data = weight
    folder = ONLY[0]
    model.save_pretrained(folder)
    loaded = load_causal(
        folder, Dtype.float32, quantized=Quantized(NF4(double_quantization=double), "cpu")
    )
    return loaded.model.layers[0].self_attn.q_proj


ONLY: list[Path] = []


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> None:
    ONLY[:] = [tmp_path / "only"]


def test_the_sixteen_levels_are_kept_and_others_become_the_nearest() -> None:
    levels = torch.tensor(LEVELS)
    weight = 3 * levels.repeat(64, 4)  # blocks of 64, the largest is 3
    assert torch.allclose(dequantized_weight(only_layer(weight, double=False)), weight, atol=1e-6)
    middle = (levels[:-1] + levels[1:]) / 2
    for shift, wanted in ((-1e-3, levels[:-1]), (1e-3, levels[1:])):
        row = torch.cat([middle + shift, torch.ones(1)]).repeat(64, 4)
        found = dequantized_weight(only_layer(3 * row, double=False))
        assert torch.allclose(
            found, 3 * torch.cat([wanted, torch.ones(1)]).repeat(64, 4), atol=1e-6
        )


@pytest.mark.parametrize("double", [True, False])
def test_the_error_is_at_most_half_a_gap_of_the_blocks_largest(double: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    found = dequantized_weight(only_layer(weight, double=double))
    largest = weight.view(-1, 64).abs().amax(dim=1, keepdim=True)
    widest = (1 - 0.6961928) / 2
    scale_error = 0.02 * largest.max() if double else 0.0  # of scales in 8 bits
    error = (found - weight).view(-1, 64).abs()
    assert (error <= widest * largest + scale_error + 1e-6).all()
    relative = float(error.square().mean().sqrt() / weight.square().mean().sqrt())
    assert 0.085 < relative < 0.1  # of normal weights
    assert found.dtype is torch.float32 and found.shape == weight.shape


def test_a_weight_takes_4_and_an_eighth_bits(tmp_path: Path) -> None:
    wide = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=512, intermediate_size=1024, num_hidden_layers=1, num_attention_heads=8,
            vocab_size=64,
        )
    )  # fmt: skip
    wide.save_pretrained(tmp_path)
    for double, most in ((True, 4.15), (False, 4.55)):
        quantized = Quantized(NF4(double_quantization=double), "cpu")
        model = load_causal(tmp_path, Dtype.float32, quantized=quantized)
        size = weights = 0
        for _, _, layer in quantized_layers(model):
            state = layer.weight.quant_state
            size += layer.weight.nbytes + state.absmax.nbytes
            size += state.state2.absmax.nbytes if double else 0
            weights += layer.in_features * layer.out_features
        assert weights == 4 * 512 * 512 + 3 * 512 * 1024
        assert most - 0.1 < 8 * size / weights < most


@every_architecture
@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
def test_what_is_not_quantised(architecture: str, dtype: Dtype, tmp_path: Path) -> None:
    folder = saved(tmp_path, architecture, tie_word_embeddings=False)
    model = load_causal(folder, dtype, quantized=ON_CPU)
    layers = {layer for _, _, layer in quantized_layers(model)}
    head = head_of(model)
    plain = [module for module in model.modules() if type(module) is nn.Linear]
    assert plain == [head] and model.get_input_embeddings() is not head
    assert len(layers) == {"gpt2": 8, "llama": 14, "gptj": 12}[architecture]
    rest = [m for m in model.modules() if m not in layers]
    kept = [p for module in rest for p in module.parameters(recurse=False)]
    assert len(kept) >= 6 and {p.dtype for p in kept} == {torch.float32}  # norms too
    assert not any(p.requires_grad for p in model.parameters())
    for layer in layers:
        assert layer.bias is None or layer.bias.dtype is torch.bfloat16
    assert model.config.quantization_config.bnb_4bit_quant_type == "nf4"


@every_architecture
@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
def test_a_score_head_stays_float32(architecture: str, dtype: Dtype, tmp_path: Path) -> None:
    tiny_classifier(architecture).save_pretrained(tmp_path)
    model: Any = load_classifier(tmp_path, dtype, quantized=ON_CPU)
    assert type(model.score) is nn.Linear and model.score.weight.dtype is torch.float32
    assert is_quantized(model)


@every_architecture
@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
@pytest.mark.parametrize("quantization", list(Quantization), ids=[q.value for q in Quantization])
def test_the_value_head_is_float32_and_trained(
    architecture: str, dtype: Dtype, quantization: Quantization, tmp_path: Path
) -> None:
    actors = qlora_actors(saved(tmp_path, architecture), dtype=dtype, quantization=quantization)
    head = actors.policy.value_head
    assert head.weight.dtype is head.bias.dtype is torch.float32
    assert head.weight.requires_grad and head.bias.requires_grad
    adapters = [p for n, p in actors.policy.named_parameters() if "lora_" in n]
    assert {p.dtype for p in adapters} == {torch.float32}


def test_a_reference_is_not_loaded_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tokencredit.rl.load as actors_module

    loads: list[object] = []
    load = actors_module.load_causal
    monkeypatch.setattr(
        actors_module, "load_causal", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    actors = qlora_actors(saved(tmp_path, "llama"))
    assert len(loads) == 1 and actors.reference.frozen is None


@every_architecture
@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
def test_a_merged_model_is_plain_and_in_the_format_it_was_loaded_in(
    architecture: str, dtype: Dtype, tmp_path: Path
) -> None:
    model = adapted(load_causal(saved(tmp_path, architecture), dtype, quantized=ON_CPU), QLORA)
    bits = packed_bits(model)
    plain: Any = merged_copy(model)
    assert not is_quantized(plain) and not plain.is_loaded_in_4bit
    assert {p.dtype for p in plain.parameters()} == {getattr(torch, dtype.value)}
    kinds = {n: type(m) for n, m in load_causal(tmp_path, dtype).named_modules()}
    assert {n: type(m) for n, m in plain.named_modules()} == kinds
    assert same(packed_bits(model), bits)
    plain.save_pretrained(tmp_path / "again")
    again = load_causal(tmp_path / "again", dtype, quantized=ON_CPU)
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        one, two = again(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(one.float(), two.float(), rtol=0.1, atol=0.15)


def test_trainers_of_trl_may_not_narrow_adapters(tmp_path: Path) -> None:
    model = adapted(load_causal(saved(tmp_path, "llama"), Dtype.float32, quantized=ON_CPU), QLORA)
    before = {p.dtype for p in model.parameters() if p.requires_grad}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    in_float32(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == before == {torch.float32}
    plain = load_causal(tmp_path, Dtype.bfloat16)
    in_float32(plain)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}  # was asked for


def test_full_fine_tuning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.quantization = 'nf4': needs model\.lora\.enabled"):
        Model(quantization=Quantization.nf4)
    Model(quantization=Quantization.nf4, lora=Lora(enabled=True))
    model = load_causal(saved(tmp_path, "llama"), Dtype.float32, quantized=ON_CPU)
    with pytest.raises(UserError, match=r"nf4': weights of four bits cannot be trained; use mod"):
        adapted(model, Lora())
    assert adapted(merged(adapted(model, QLORA)), Lora()) is not None


def test_without_bitsandbytes_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokencredit.stages.context import Context

    folder = saved(tmp_path, "llama")
    config = qlora_config()
    config.store = str(tmp_path / "store")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = r"model\.quantization = 'nf4': needs the package bitsandbytes; install it \(pip inst"
    with pytest.raises(UserError, match=message):
        load_causal(folder, Dtype.float32, quantized=ON_CPU)
    with pytest.raises(UserError, match=message):  # said before any stage runs
        check_machine(Context(config), ())
    assert not is_quantized(load_causal(folder, Dtype.float32))


def test_code_from_the_hub_is_not_fetched_when_it_is_imported(tmp_path: Path) -> None:
    """bitsandbytes asks the package kernels for a kernel from the hub while it is imported."""
    import subprocess

    saved(tmp_path, "llama")
    (tmp_path / "kernels.py").write_text("raise SystemExit('fetched code')\n")
    code = (
        "from tokencredit.models.loading.quantization import Quantized, NF4\n"
        "Quantized(NF4(), 'cpu').arguments()\n"
        "import sys, bitsandbytes\n"
        "assert 'kernels' not in sys.modules\n"
        "print('imported')\n"
    )
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{source}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "imported\n", done.stderr
    assert "kernels" not in done.stderr


def test_an_adapter_on_a_separate_value_function_is_merged(tmp_path: Path) -> None:
    actors = qlora_actors(saved(tmp_path, "gpt2"), value=Value(kind=ValueKind.separate))
    trunk = actors.policy.value_trunk
    assert trunk is not None and is_quantized(trunk)
    kinds = {type(m).__module__ for m in trunk.modules() if hasattr(m, "lora_A")}
    assert kinds == {"peft.tuners.lora.bnb"}
    assert not is_quantized(merged_copy(trunk))  # type: ignore[arg-type]
    assert NF4().compute_dtype is ComputeFormat.bfloat16 and NF4().double_quantization

"""Tiny models whose linear layers have four bits, of three architectures, on a CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from builders import tiny_causal, train_tokenizer
from policies import run_config
from tokencredit.config import Config
from tokencredit.models.actors import Actors
from tokencredit.models.adapters.lora import Lora, merged
from tokencredit.models.loading.quantization import NF4, Quantization, Quantized, quantized_layers
from tokencredit.rl.load import load_actors

QLORA = Lora(enabled=True, r=4, alpha=8)
ON_CPU = Quantized(NF4(), "cpu")
NAMES = ("gpt2", "llama", "gptj")


def saved(folder: Path, architecture: str, **extra: Any) -> Path:
    """A random model of that architecture with a tokenizer, as a folder."""
    tiny_causal(architecture, **extra).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return folder


def qlora_config(**model: Any) -> Config:
    """A run whose policy is four-bit weights under adapters."""
    given: dict[str, Any] = {"quantization": Quantization.nf4, "lora": QLORA, **model}
    return run_config(**given)


def qlora_actors(folder: Path, **model: Any) -> Actors:
    """The live models of such a run."""
    return load_actors(qlora_config(**model), folder)


def packed_bits(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the packed weights of every quantised layer, and of the scales of their blocks."""
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, Tensor] = {}
    for _, _, layer in quantized_layers(model):
        state = layer.weight.quant_state
        found[names[layer]] = layer.weight.data.clone()
        found[f"{names[layer]} scales"] = state.absmax.clone()
        found[f"{names[layer]} scales of scales"] = state.state2.absmax.clone()
    return found


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def dequantised(model: Any) -> PreTrainedModel:
    """A plain model with the weights that the four bits stand for, without its adapters."""
    copied = copy.deepcopy(model)
    for name, parameter in copied.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    return merged(copied)

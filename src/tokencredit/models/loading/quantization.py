"""Frozen weights in four bits beneath adapters (QLoRA, Dettmers et al. 2023), and back again."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from tokencredit.errors import UserError, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Quantization(str, Enum):
    """Number format of the frozen weights beneath adapters."""

    none = "none"
    nf4 = "nf4"
    """Four-bit NormalFloat: quantiles of a normal distribution, scaled in blocks of 64 weights."""


class ComputeFormat(str, Enum):
    """Number format of a quantised layer's matrix product."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(slots=True, kw_only=True)
class NF4:
    """Details of model.quantization=nf4."""

    double_quantization: bool = True
    """Quantise the scales of the blocks too, to 8 bits: 4.13 bits a weight in place of 4.5."""
    compute_dtype: ComputeFormat = ComputeFormat.bfloat16
    """Number format in which a quantised layer multiplies."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """How a model is loaded whose linear layers are quantised, head and score aside."""

    nf4: NF4
    device: str
    """cpu or cuda. Weights are quantised there, one after another, so it never holds them all."""

    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` is told; `UserError` without bitsandbytes."""
        check_installed()
        with _own_kernels_only():
            import bitsandbytes  # noqa: F401 - to be imported here first
        from transformers import BitsAndBytesConfig

        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.nf4.double_quantization,
            bnb_4bit_compute_dtype=getattr(torch, self.nf4.compute_dtype.value),
        )
        return {"quantization_config": settings, "device_map": {"": self.device}}


def check_installed() -> None:
    """Raise unless bitsandbytes can be imported."""
    require(
        importlib.util.find_spec("bitsandbytes") is not None,
        "model.quantization",
        "nf4",
        "needs the package bitsandbytes; install it (pip install bitsandbytes), or use none",
    )


@contextmanager
def _own_kernels_only() -> Iterator[None]:
    """Where bitsandbytes is imported: it would fetch code from the hub, and say so if it cannot."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, present = logger.level, sys.modules.get("kernels")
    logger.setLevel(logging.ERROR)
    blocked: Any = None
    sys.modules["kernels"] = blocked
    try:
        yield
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if present is not None:
            sys.modules["kernels"] = present


def settle(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model that was loaded quantised fit to be trained under adapters; the model.

    What is not quantised (norms, embeddings, heads) becomes float32, whatever format it was loaded
    in: norms need that, and what is added up between layers then is in one format.
    """
    layers = {layer for _, _, layer in quantized_layers(model)}
    for module in model.modules():
        if module not in layers:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
    for layer in layers:
        _keep_packing(layer)
        if layer.bias is not None:  # at the first forward pass, otherwise
            layer.bias.data = layer.bias.data.to(layer.compute_dtype)
    model.requires_grad_(False)
    trunk: Any = model.base_model
    trunk.is_loaded_in_4bit = True  # peft asks the trunk where adapters are put on it alone
    return model


def _keep_packing(layer: Any) -> None:
    """Keep a layer's bits as they are.

    With AVX-512 BF16, bitsandbytes packs them anew in the first pass of evaluation mode, for a
    kernel of other rounding and without a gradient; training mode never gets the old ones back.
    """
    layer.support_avx512bf16_for_cpu = False


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether a layer of `model` holds four-bit weights."""
    return bool(quantized_layers(model))


def quantized_layers(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, Any]]:
    """Each quantised layer, and its parent and its name there."""
    loaded: Any = sys.modules.get("bitsandbytes")
    if loaded is None:  # and so nothing can be quantised
        return []
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, loaded.nn.Linear4bit)
    ]


def dequantized_weight(layer: Any) -> torch.Tensor:
    """The weight (out, in) that a quantised layer stands for, in the format it was loaded in."""
    from bitsandbytes.functional import dequantize_4bit

    weight: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def plain_layer(layer: Any, delta: torch.Tensor | None = None) -> torch.nn.Module:
    """A layer of the kind that was quantised, with its dequantised weight, plus `delta` (out, in).

    The sum is taken in float32.
    """
    weight = dequantized_weight(layer)
    if delta is not None:
        weight = (weight.float() + delta.float()).to(weight.dtype)
    bias = layer.bias is not None
    shape = layer.in_features, layer.out_features
    with torch.device("meta"):
        if layer.source_cls is torch.nn.Linear:
            plain: Any = torch.nn.Linear(*shape, bias=bias)
        else:  # GPT-2's layers of dimensions (in, out)
            plain, weight = layer.source_cls(shape[1], shape[0]), weight.t().contiguous()
    plain.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias:
        plain.bias = torch.nn.Parameter(layer.bias.data.to(weight.dtype), requires_grad=False)
    found: torch.nn.Module = plain
    return found


def forget(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let a model whose layers are plain again be a plain model, all of it in one format."""
    from transformers.quantizers.base import HfQuantizer

    HfQuantizer.remove_quantization_config(None, model)
    for part in (model, model.base_model):
        part.is_loaded_in_4bit = False
    model.to(dtype)


def refuse_full_training(model: torch.nn.Module) -> None:
    """Raise if `model`, which is to be trained as a whole, is quantised."""
    if is_quantized(model):
        raise UserError(
            "model.quantization = 'nf4': weights of four bits cannot be trained; use "
            "model.lora.enabled=true, which trains adapters on them, or model.quantization=none"
        )

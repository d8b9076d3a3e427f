"""Low-rank adapters: put on, chosen, merged away."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tokencredit.errors import UserError
from tokencredit.fields import Settings, added, number
from tokencredit.models.loading.quantization import (
    forget,
    is_quantized,
    plain_layer,
    quantized_layers,
    refuse_full_training,
)

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from torch import nn
    from transformers import PreTrainedModel

POLICY: Final = "default"
"""Name of the adapter that makes a model the policy; peft's own default."""
VALUE: Final = "value"
"""Name of a second adapter on the same weights, under which they serve the value function."""
DPO: Final = "dpo"
"""Name of a frozen adapter on the same weights, under which they are the DPO model."""


class LoraLayers(str, Enum):
    """Which layers adapters are put on."""

    default = "default"
    """Those that peft chooses for the architecture: attention's queries and values, mostly."""
    all = "all"
    """Every linear layer below the head."""


@dataclass(slots=True, kw_only=True)
class Lora(Settings):
    """Low-rank adapters in place of full fine-tuning."""

    section: ClassVar[str] = "model.lora"

    enabled: bool = False
    """Train adapters only; the reference is then the same model with adapters off."""
    r: int = number(16, at_least=1)
    """Rank."""
    alpha: int = number(32, at_least=1)
    """Scale numerator."""
    dropout: float = number(0.0, at_least=0, below=1)
    """Dropout of the adapter input; must be 0 in the RL stage, where ratios must start at 1."""
    rslora: bool = False
    """Scale alpha / sqrt(r) in place of alpha / r."""
    layers: LoraLayers = added(LoraLayers.default)
    """default: as peft chooses for the architecture; all: every linear layer below the head."""
    merge: bool = True
    """Merge the adapter into the exported policy."""


def all_linear(rank: int, alpha: int) -> Lora:
    """rsLoRA adapters on all linear layers, as the judges with adapters of their own have them."""
    return Lora(enabled=True, r=rank, alpha=alpha, rslora=True, layers=LoraLayers.all)


def adapted(model: PreTrainedModel, lora: Lora, task: str = "CAUSAL_LM") -> PreTrainedModel:
    """`model` with trainable adapters, or as it is.

    Raises `UserError` where peft finds no layer of it to put them on.
    """
    if not lora.enabled:
        refuse_full_training(model)
        return model
    from peft import get_peft_model

    try:
        return get_peft_model(model, _config(lora, task))
    except ValueError as error:
        raise UserError(
            f"model.lora.layers = {lora.layers.value!r}: adapters find no layer of "
            f"{type(model).__name__} ({error}); use model.lora.layers=all, or a model whose layers "
            "are linear ones"
        ) from error


def check_adapters(model: PreTrainedModel, lora: Lora) -> None:
    """As `adapted` would, of a model without weights, which stays as it is."""
    adapted(copy.deepcopy(model), lora)


def add_value_adapter(model: PreTrainedModel, lora: Lora) -> None:
    """A second adapter of the same shape, trainable beside the first; the first stays active."""
    model.add_adapter(VALUE, _config(lora, "CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)


def add_frozen(model: PreTrainedModel, folder: Path, name: str) -> None:
    """The adapter in `folder`, frozen, under `name`; whatever was active or trainable stays so."""
    device = str(next(model.parameters()).device)
    training = [module for module in model.modules() if module.training]
    model.load_adapter(str(folder), adapter_name=name, is_trainable=False, torch_device=device)
    for module in training:  # peft has put the whole model into evaluation mode
        module.training = True
    for key, parameter in model.named_parameters():
        if re.search(rf"lora_\w+\.{name}(\.|$)", key):
            parameter.requires_grad_(False)


def lora_config(lora: Lora, task: str) -> LoraConfig | None:
    """What peft and TRL are told of the adapters; None without."""
    return _config(lora, task) if lora.enabled else None


def belongs_to_value(name: str) -> bool:
    """Whether a parameter of that name is one of the second adapter's."""
    return re.search(rf"lora_\w+\.{VALUE}(\.|$)", name) is not None


def _config(lora: Lora, task: str) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules="all-linear" if lora.layers is LoraLayers.all else None,
        bias="none",
        task_type=task,
    )


def in_float32(model: nn.Module) -> None:
    """Make adapters on quantised weights float32 again; TRL's trainers turn them bfloat16.

    A small step of AdamW would be lost to rounding there.
    """
    for parameter in model.parameters() if is_quantized(model) else ():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain model: the policy's adapter, if there is one, added into the weights.

    Quantised weights are dequantised first, so it says what was trained, up to rounding.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    dtype = _dequantize(model)
    plain = model.merge_and_unload(adapter_names=[POLICY])
    if dtype is not None:
        forget(plain, dtype)
    return plain


def merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A merged copy, while `model` stays as it is; on the CPU if it grows by being dequantised."""
    copied = copy.deepcopy(model)
    return merged(copied.to("cpu") if is_quantized(copied) else copied)


def _dequantize(model: nn.Module) -> torch.dtype | None:
    """Make quantised layers plain, the policy's adapter added; the format they were loaded in."""
    layers = quantized_layers(model)
    if not layers:
        return None
    four_bits = {layer for _, _, layer in layers}
    for parent in list(model.modules()):
        for name, found in list(parent.named_children()):
            child: Any = found
            if getattr(child, "base_layer", None) in four_bits:
                delta = child.get_delta_weight(POLICY) if POLICY in child.lora_A else None
                setattr(parent, name, plain_layer(child.base_layer, delta))
    for parent, name, layer in quantized_layers(model):  # those without an adapter
        setattr(parent, name, plain_layer(layer))
    dtype: torch.dtype = layers[0][2].weight.quant_state.dtype
    return dtype


@contextmanager
def using(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """`model` with this adapter, or with none, for as long as the context lasts.

    peft's own switches also change which parameters are trainable, and would leave the second
    adapter frozen; here that stays as it is.
    """
    layers = _layers(model)
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    before = [(layer, layer.active_adapters, not layer.disable_adapters) for layer in layers]
    try:
        for layer, active, _ in before:
            _switch(layer, active if adapter is None else [adapter], adapter is not None)
        yield
    finally:
        for layer, active, enabled in before:
            _switch(layer, active, enabled)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def same_adapter(model: nn.Module) -> AbstractContextManager[None]:
    """Later, the adapter that is in use now: for activations recomputed in a backward pass."""
    layers = _layers(model)
    if not layers:
        return nullcontext()
    first = layers[0]
    return using(model, None if first.disable_adapters else first.active_adapters[0])


def check_reference(model: PreTrainedModel) -> None:
    """Raise unless `model` without its adapters is the model that it was before them."""
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    if not configs:
        raise UserError(
            "model.lora.enabled: a policy without adapters needs a frozen copy as its reference"
        )
    for name, config in configs.items():
        kept = getattr(config, "modules_to_save", None)
        if kept or getattr(config, "bias", "none") != "none":
            raise UserError(
                f"model.lora: adapter {name!r} trains {', '.join(kept) if kept else 'biases'} in "
                "place, so the model without adapters is no longer the reference; train adapters "
                "only (no modules_to_save, bias none)"
            )


def _layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _switch(layer: Any, active: list[str], enabled: bool) -> None:
    layer.set_adapter(active)
    layer.enable_adapters(enabled)

"""Low-rank adapters: put on, merged away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencredit.models.model import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapted(model: PreTrainedModel, lora: Lora, task: str = "CAUSAL_LM") -> PreTrainedModel:
    """`model` with trainable adapters on the architecture's default modules, or as it is."""
    if not lora.enabled:
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        bias="none",
        task_type=task,
    )
    return get_peft_model(model, config)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain model: adapters, if there are any, added into the weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model

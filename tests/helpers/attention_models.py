"""Tiny decoders of four architectures whose attention can be read, and one whose cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTJForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from tokencredit.models.attention.row import AttentionRow

VOCABULARY, PAD, LAYERS, HEADS = 50, 1, 3, 4
LENGTHS = (9, 4, 6)
SPECIAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
OLD_NAMES: dict[str, Any] = {"n_embd": 32, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64}
NEW_NAMES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
}


def _gpt2() -> GPT2Config:
    return GPT2Config(**OLD_NAMES, **SPECIAL)


def _llama() -> LlamaConfig:  # two query heads share a key head
    return LlamaConfig(num_key_value_heads=2, **NEW_NAMES, **SPECIAL)


def _neox() -> GPTNeoXConfig:
    return GPTNeoXConfig(**NEW_NAMES, **SPECIAL)


def _gptj() -> GPTJConfig:
    return GPTJConfig(rotary_dim=4, **OLD_NAMES, **SPECIAL)


DECODERS: Final[dict[str, tuple[Callable[[], Any], type[PreTrainedModel]]]] = {
    "gpt2": (_gpt2, GPT2LMHeadModel),
    "llama": (_llama, LlamaForCausalLM),
    "neox": (_neox, GPTNeoXForCausalLM),
    "gptj": (_gptj, GPTJForCausalLM),
    "gpt2_classifier": (_gpt2, GPT2ForSequenceClassification),
    "llama_classifier": (_llama, LlamaForSequenceClassification),
    "neox_classifier": (_neox, GPTNeoXForSequenceClassification),
    "gptj_classifier": (_gptj, GPTJForSequenceClassification),
}
CLASSIFIERS: Final = tuple(name for name in DECODERS if name.endswith("classifier"))
CAUSAL: Final = tuple(name for name in DECODERS if name not in CLASSIFIERS)


def decoder(name: str) -> PreTrainedModel:
    """A random model of three layers, 32 wide, whose attention is far from uniform."""
    config, kind = DECODERS[name]
    return _sharpened(kind, config())


def unreadable() -> PreTrainedModel:
    """GPT-Neo: neither transformers' attention interface nor GPT-J."""
    config = GPTNeoConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=HEADS,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        **SPECIAL,
    )
    return _sharpened(GPTNeoForSequenceClassification, config)


def _sharpened(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)
    return model.eval()


def sequences() -> list[Tensor]:
    """Three texts of different lengths."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator) for n in LENGTHS]


def padded(texts: list[Tensor], side: str, extra: int = 0, filler: int = PAD) -> dict[str, Tensor]:
    """The inputs of a forward pass, with `extra` columns of padding more than needed."""
    width = max(len(text) for text in texts) + extra
    ids = torch.full((len(texts), width), filler)
    mask = torch.zeros_like(ids)
    for b, text in enumerate(texts):
        where = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[b, where], mask[b, where] = text, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def last_rows(batch: dict[str, Tensor]) -> Tensor:
    """Where the last real token of each text stands."""
    mask = batch["attention_mask"]
    return mask.shape[1] - 1 - mask.flip(-1).argmax(dim=-1)


def captured(model: PreTrainedModel, batch: dict[str, Tensor], layer: int = -1) -> Tensor:
    """The weights of the last real tokens."""
    reader = AttentionRow(model, layer)
    with torch.no_grad(), reader.capture(last_rows(batch)):
        model(**batch)
    return reader.weights


def eager_rows(
    model: PreTrainedModel, batch: dict[str, Tensor], rows: Tensor, layer: int = -1
) -> Tensor:
    """The weights of some rows, from transformers' own attention maps."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions[layer]
    model.set_attn_implementation(before)
    return torch.stack([maps[b, :, row] for b, row in enumerate(rows.tolist())])

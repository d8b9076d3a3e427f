"""After `disable_dropout`, training mode is deterministic and stays training mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tokencredit.models.passes.kernels import disable_dropout

IDS = torch.arange(2, 14).reshape(2, 6)


def gpt2(**extra: Any) -> GPT2Config:
    sizes = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return GPT2Config(**sizes, pad_token_id=0, **extra)


def llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_dropout=0.3,
    )
    return LlamaForCausalLM(config)


def lora() -> nn.Module:
    adapter = LoraConfig(r=2, lora_dropout=0.4, target_modules=["c_attn"], init_lora_weights=False)
    return get_peft_model(GPT2LMHeadModel(gpt2()), adapter)


def opt() -> nn.Module:
    config = OPTConfig(
        vocab_size=30,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        word_embed_proj_dim=16,
        layerdrop=0.2,
    )
    return OPTForCausalLM(config)


def bert() -> nn.Module:
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        classifier_dropout=0.2,
    )
    return BertForSequenceClassification(config)


MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(gpt2()),
    "gpt2_classifier": lambda: GPT2ForSequenceClassification(gpt2(classifier_dropout=0.3)),
    "llama": llama,
    "lora": lora,
    "opt": opt,
    "bert": bert,
}


def two_forwards(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    return model(IDS).logits.detach(), model(IDS).logits.detach()


def remaining(model: nn.Module) -> list[str]:
    """Every probability above 0 in modules, configurations, and adapter configurations."""
    found = [
        f"{name}.p"
        for name, module in model.named_modules()
        if isinstance(getattr(module, "p", None), float) and module.p > 0
    ]
    configs = [model.config.to_dict()]
    configs += [adapter.to_dict() for adapter in getattr(model, "peft_config", {}).values()]
    for config in configs:
        for key, value in config.items():
            named = "drop" in key and isinstance(value, float)
            found += [key] if named and value > 0 else []
    return found


@pytest.mark.parametrize("name", MODELS)
def test_field_B15_two_training_forwards_are_equal(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    first, second = two_forwards(model)
    assert not torch.equal(first, second)  # mutation: without the call they differ
    assert remaining(model)
    assert disable_dropout(model) > 0
    assert remaining(model) == []
    first, second = two_forwards(model)
    assert torch.equal(first, second)
    assert model.training
    assert disable_dropout(model) == 0


def test_every_probability_is_counted_once() -> None:
    """Two dropout modules, one number in the user's module, one field in its configuration."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.off = nn.Dropout(0.1), nn.Dropout2d(0.2), nn.Dropout(0.0)
            self.attention_dropout = 0.5
            self.use_dropout = True
            self.config = type("Config", (), {})()
            self.config.resid_pdrop, self.config.width = 0.1, 2.0

    block = Block()
    assert disable_dropout(block) == 4
    assert (block.attention_dropout, block.use_dropout, block.config.width) == (0.0, True, 2.0)


def test_gpt2_fields_and_modules() -> None:
    """Four configuration fields; one module at the embedding, three in each of two blocks."""
    assert disable_dropout(GPT2LMHeadModel(gpt2())) == 4 + 1 + 2 * 3


def test_field_B15_gradient_checkpointing_stays_active() -> None:
    """Blocks are computed again in the backward pass; `eval()` in its place would end that."""
    model = GPT2LMHeadModel(gpt2()).train()
    model.activation_checkpointing_enable()
    disable_dropout(model)
    calls: list[int] = []
    model.transformer.h[0].ln_1.register_forward_hook(lambda *_: calls.append(1))
    for mode, expected in ((True, 2), (False, 1)):
        calls.clear()
        model.train(mode)
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        assert len(calls) == expected

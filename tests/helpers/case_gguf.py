"""Tiny GGUF files, written as llama.cpp's converter lays them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

END, START = 0, 1
Arrays = dict[str, np.ndarray]


def tiny_model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    return LlamaForCausalLM(config).eval()


def tiny_bpe() -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the movie was good", "the movie was bad"], trainer)
    return bpe


TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_tensor(name: str, values: np.ndarray, config: LlamaConfig) -> tuple[str, np.ndarray]:
    """Name and values as llama.cpp keeps them: queries and keys with rotary halves interleaved."""
    outer = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}
    if name in outer:
        return f"{outer[name]}.weight", values
    _, _, layer, rest = name.split(".", 3)
    part = rest.removesuffix(".weight")
    heads = {
        "self_attn.q_proj": config.num_attention_heads,
        "self_attn.k_proj": config.num_key_value_heads,
    }
    if part in heads:
        halves = values.reshape(heads[part], 2, -1, values.shape[1])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    return f"blk.{layer}.{TENSORS[part]}.weight", np.ascontiguousarray(values)


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    bpe: Tokenizer,
    *,
    change: Callable[[Arrays], Arrays] = dict,
    **fields: int,
) -> Path:
    """`path`; `change` spoils the tensors, and `fields` replace numbers of its key-value part."""
    config, vocabulary = model.config, json.loads(bpe.to_str())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(fields.get("context", config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(fields.get("blocks", config.num_hidden_layers))
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_eos_token_id(fields.get("eos", END))
    writer.add_bos_token_id(START)
    writer.add_pad_token_id(END)
    tensors = dict(
        gguf_tensor(name, values.numpy(), config)
        for name, values in model.state_dict().items()
        if name != "lm_head.weight"  # tied
    )
    for name, array in change(tensors).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

"""A decoder and a tokenizer made from nothing: the recipe behind `model=tiny`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.models.loading.model import Model, parameter_count
from tokencredit.streams import torch_seed

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with an end token and a pad token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, bos_token=END, pad_token=PAD
    )


def write_scratch_model(model: Model, texts: Iterable[str], seed: int, out: Path) -> int:
    """Write a randomly initialised Llama decoder and tokenizer to `out`; its parameter count."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = train_tokenizer(texts, model.architecture.vocab_size)
    config = scratch_config(model)
    config.vocab_size = len(tokenizer)
    for name in ("bos", "eos", "pad"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    torch.manual_seed(torch_seed(seed))
    decoder = LlamaForCausalLM(config)
    decoder.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return parameter_count(decoder)


def scratch_config(model: Model) -> LlamaConfig:
    """What is made of `model.architecture`, before a tokenizer says how many ids there are."""
    from transformers import LlamaConfig

    size = model.architecture
    return LlamaConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.mlp_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=model.context,
        tie_word_embeddings=True,
    )

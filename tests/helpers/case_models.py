"""Tiny models with random weights, each with one peculiarity of those that people bring along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from case_data import review

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [review(number)["text"] for number in range(60)]
TEXTS += ["user assistant system film verdict review", "plus is minus"]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WEIGHTS = "model.safetensors"
Weights = dict[str, Tensor]


def make_tokenizer(
    *,
    eos: str = "<|endoftext|>",
    pad: str = "<|pad|>",
    bos: str | None = None,
    template: str | None = None,
    opens: bool = False,
    closes: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 ids.

    `opens`: it puts `bos` in front of every text; `closes`: `eos` behind every text.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([eos, pad, *SPECIAL, *([bos] if bos else [])]))
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    around = [str(bos)] * opens, [eos] * closes
    if opens or closes:
        bpe.post_processor = processors.TemplateProcessing(
            single=" ".join([*around[0], "$A", *around[1]]),
            special_tokens=[(name, bpe.token_to_id(name)) for name in (*around[0], *around[1])],
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=eos, pad_token=pad, bos_token=bos
    )
    if template:
        made.chat_template = template
    return made


def make_config(
    tokenizer: PreTrainedTokenizerFast, *, rows: int | None = None, **more: Any
) -> LlamaConfig:
    """Two layers, 32 wide, a context of 256; `rows` of the embedding where they exceed the ids."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    return LlamaConfig(vocab_size=rows or len(tokenizer), **(sizes | more))


def make_causal(tokenizer: PreTrainedTokenizerFast, **more: Any) -> PreTrainedModel:
    """A random decoder for this tokenizer; the same each time."""
    torch.manual_seed(1)
    return LlamaForCausalLM(make_config(tokenizer, **more))


def make_classifier(
    tokenizer: PreTrainedTokenizerFast, labels: int = 1, **more: Any
) -> PreTrainedModel:
    """A random classifier for this tokenizer; the same each time."""
    torch.manual_seed(2)
    return LlamaForSequenceClassification(make_config(tokenizer, num_labels=labels, **more))


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """`folder`, holding model and tokenizer as transformers saves them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[Weights], Mapping[str, Tensor]]) -> Path:
    """`folder`, its tensors replaced by what `change` makes of them."""
    changed = dict(change(load_file(folder / WEIGHTS)))
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def plain(folder: Path) -> Path:
    """A decoder and its tokenizer without a peculiarity."""
    tokenizer = make_tokenizer()
    return save(folder, make_causal(tokenizer), tokenizer)

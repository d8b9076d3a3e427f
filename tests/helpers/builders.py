"""Small things that many tests need: a tokenizer, tiny models, rollouts, a folder of reviews."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTJForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokencredit.judges.given import Given
from tokencredit.models.actors import Actors
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Model
from tokencredit.models.passes.kernels import disable_dropout
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.rollout import Judgement, Prompts, Rollout

EOS, PAD = "<|endoftext|>", "<|pad|>"
EOS_ID, PAD_ID = 0, 1
VOCABULARY = 300
ARCHITECTURES = ("gpt2", "llama")
TEXTS = [
    "the movie was good and the actors were wonderful",
    "the movie was bad and the plot was awful",
    "I loved it 🎬 — a naïve, touching story",
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def train_tokenizer(*, chat: bool = False, **roles: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: id 0 ends a text, id 1 is the pad unless `roles` say otherwise."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, **({"eos_token": EOS, "pad_token": PAD} | roles)
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


KINDS: dict[str, tuple[type[PreTrainedModel], type[PreTrainedModel]]] = {
    "gpt2": (GPT2LMHeadModel, GPT2ForSequenceClassification),
    "llama": (LlamaForCausalLM, LlamaForSequenceClassification),
    "gptj": (GPTJForCausalLM, GPTJForSequenceClassification),
}


def _config(architecture: str, seed: int, extra: dict[str, Any]) -> Any:
    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.3,  # the usual 0.02 makes a distribution too flat to notice anything
        "bos_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        **extra,
    }
    if architecture in {"gpt2", "gptj"}:
        old_names = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}
        if architecture == "gpt2":
            return GPT2Config(**old_names, **shared)
        return GPTJConfig(rotary_dim=4, **old_names, **shared)
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **{"max_position_embeddings": 96, **shared},
    )


def tiny_causal(architecture: str = "llama", seed: int = 0, **extra: Any) -> PreTrainedModel:
    """A random decoder of two layers, 32 wide, without dropout."""
    model = KINDS[architecture][0](_config(architecture, seed, extra))
    disable_dropout(model)
    return model


def tiny_classifier(architecture: str = "llama", seed: int = 1, **extra: Any) -> PreTrainedModel:
    """A random two-label classifier of the same size."""
    config = _config(architecture, seed, {"num_labels": 2, **extra})
    return KINDS[architecture][1](config).eval()


def tiny_policy(
    architecture: str = "llama", sampling: Sampling | None = None, seed: int = 0
) -> PolicyWithValue:
    """A policy whose value head is not zero, so that values say something."""
    policy = PolicyWithValue(
        tiny_causal(architecture, seed), SpecialIds(eos=EOS_ID, pad=PAD_ID), sampling or Sampling()
    )
    torch.manual_seed(seed + 100)
    torch.nn.init.normal_(policy.value_head.weight, std=0.2)
    torch.nn.init.constant_(policy.value_head.bias, 0.1)
    return policy


def tiny_actors(
    architecture: str = "llama", sampling: Sampling | None = None, seed: int = 0
) -> Actors:
    """A policy and a reference that is a copy of it."""
    policy = tiny_policy(architecture, sampling, seed)
    return Actors(
        policy=policy,
        reference=Reference(policy, copy.deepcopy(policy.model)),
        tokenizer=train_tokenizer(),
    )


def speaking(tokenizer: Any) -> Actors:
    """Actors of which a judge that reads text alone needs the tokenizer."""
    return replace(tiny_actors(), tokenizer=tokenizer)


def handed(**settings: Any) -> Given:
    """What a judge is handed where it reads no artifact and no column, but for these settings."""
    usual: dict[str, Any] = {"scheme": None, "seconds": None, "column_names": list}
    parts = {"model": Model(), "score_at": ScoreAt.end, "beta": 0.1, "device": "cpu"}
    return Given(**{"folder": Path, "columns": dict, **usual, **parts, **settings})


def make_prompts(
    lengths: Sequence[int], *, max_new: Sequence[int] | int = 12, min_new: int = 4, seed: int = 0
) -> Prompts:
    """Random left-padded prompts of the given lengths; row i is record 10 + i."""
    generator = torch.Generator().manual_seed(seed)
    size, width = len(lengths), max(lengths)
    ids = torch.randint(2, VOCABULARY, (size, width), generator=generator)
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    limits = torch.full((size,), max_new) if isinstance(max_new, int) else torch.tensor(max_new)
    return Prompts(
        rows=torch.arange(10, 10 + size),
        samples=torch.zeros(size, dtype=torch.long),
        groups=torch.arange(size),
        ids=torch.where(mask, ids, PAD_ID),
        mask=mask,
        min_new=torch.full((size,), min_new),
        max_new=limits,
    )


def mask_of(lengths: Sequence[int], width: int | None = None) -> Tensor:
    """A right-padded response mask."""
    return torch.arange(width or max(lengths))[None] < torch.tensor(lengths)[:, None]


def make_rollout(lengths: Sequence[int], *, width: int | None = None, seed: int = 0) -> Rollout:
    """A rollout of random numbers over responses of the given lengths, behind prompts of 2 tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(lengths, width)
    size = len(lengths)
    longest = max(lengths)

    def floats() -> Tensor:  # the same numbers for every width
        out = torch.zeros(mask.shape)
        out[:, :longest] = torch.randn(size, longest, generator=generator)
        return torch.where(mask, out, 0.0)

    ids = torch.full(mask.shape, PAD_ID)
    ids[:, :longest] = torch.randint(2, VOCABULARY, (size, longest), generator=generator)
    logp = -floats().abs()
    return Rollout(
        rows=torch.arange(size),
        prompt_ids=torch.randint(2, VOCABULARY, (size, 2), generator=generator),
        prompt_mask=torch.ones(size, 2, dtype=torch.bool),
        response_ids=ids,
        response_mask=mask,
        min_new=torch.zeros(size, dtype=torch.long),
        finished=torch.arange(size) % 2 == 0,
        stopped=torch.zeros(size, dtype=torch.bool),
        groups=torch.arange(size),
        logp=logp,
        ref_logp=torch.where(mask, logp + 0.3 * floats(), 0.0),
        values=floats(),
    )


def make_judgement(rollout: Rollout, seed: int = 1, width: int | None = None) -> Judgement:
    """Random scores of both signs, positive evidence, and ends, the same for every padding."""
    generator = torch.Generator().manual_seed(seed)
    size, longest = len(rollout), int(rollout.lengths.max())
    scores = 3 * torch.randn(size, generator=generator)
    evidence = torch.zeros(rollout.response_mask.shape)
    evidence[:, :longest] = torch.rand(size, longest, generator=generator) + 0.01
    ends = torch.zeros_like(rollout.response_mask)
    ends[:, :longest] = torch.rand(size, longest, generator=generator) < 0.3
    return Judgement(
        scores=scores,
        evidence=torch.where(rollout.response_mask, evidence, 0.0),
        ends=ends & rollout.response_mask,
    )


def write_reviews(path: Path, count: int = 400, start: int = 0) -> Path:
    """A JSONL file of short labelled reviews, all different."""
    words = (("wonderful", "moving", "bright"), ("awful", "boring", "dull"))
    with path.open("w", encoding="utf-8") as file:
        for number in range(start, start + count):
            label = number % 2
            tone = words[1 - label][number // 2 % 3]
            text = f"review {number}: the movie was {tone} and I will remember it for years"
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path

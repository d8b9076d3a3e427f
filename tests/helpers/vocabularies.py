"""Tokenizers of every kind that a policy or a reward model may have, trained in the test."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from builders import EOS, PAD, TEXTS, mask_of, train_tokenizer
from tokencredit.rollout import Rollout

BOS, UNKNOWN = "<s>", "<unk>"
SPECIAL = [EOS, PAD, BOS, UNKNOWN]
OTHER_TEXTS = [*TEXTS, "wonderful actors, awful plot!", "a café in 東京 🎬 — good, bad"]


def byte_level(*, size: int = 340, opens: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with other merges than that of `train_tokenizer`; `opens`: with BOS."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL[::-1],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the wonderful café, the awful café"] * 2, trainer)
    return _wrapped(bpe, opens=opens)


def wordpiece(*, opens: bool = False) -> PreTrainedTokenizerFast:
    """Lower-cases, drops accents and spaces, knows nothing of emoji."""
    words = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=SPECIAL[::-1], show_progress=False
    )
    words.train_from_iterator(OTHER_TEXTS, trainer)
    return _wrapped(words, opens=opens)


def unigram(*, opens: bool = False) -> PreTrainedTokenizerFast:
    """NFKC, a space in front of the first word, pieces."""
    pieces = Tokenizer(models.Unigram())
    pieces.normalizer = normalizers.NFKC()
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=SPECIAL[::-1], unk_token=UNKNOWN, show_progress=False
    )
    pieces.train_from_iterator(OTHER_TEXTS, trainer)
    return _wrapped(pieces, opens=opens)


def byte_fallback(*, opens: bool = False) -> PreTrainedTokenizerFast:
    """BPE over pieces whose unknown characters are single bytes, as in Llama 2."""
    vocabulary = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghilmnoprstuvw"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("o", "o"), ("▁", "a")]
    names = [*vocabulary, *(left + right for left, right in merges)]
    bpe = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=merges,
            unk_token=UNKNOWN,
            byte_fallback=True,
        )
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bpe.add_special_tokens(SPECIAL)
    return _wrapped(bpe, opens=opens)


def _wrapped(tokenizer: Tokenizer, *, opens: bool) -> PreTrainedTokenizerFast:
    if opens:
        index = tokenizer.token_to_id(BOS)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, index)]
        )
    roles: dict[str, Any] = {"eos_token": EOS, "pad_token": PAD, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, **roles)


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "byte_fallback": byte_fallback,
    "own": train_tokenizer,
}


@functools.cache
def vocabulary(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a kind, trained once."""
    return KINDS[kind]()


def spell(text: str, kind: str = "own") -> list[int]:
    """The ids of a text alone."""
    ids = vocabulary(kind)(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids)


def conversation(
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    ended: Sequence[bool],
    *,
    extra: int = 0,
    fill: int = 7,
) -> Rollout:
    """A rollout of these ids, with `extra` columns of padding on either side that holds `fill`."""
    before = extra + max(map(len, prompts))
    after = extra + max(map(len, responses))
    left = [[fill] * (before - len(ids)) + ids for ids in prompts]
    right = [ids + [fill] * (after - len(ids)) for ids in responses]
    lengths = torch.tensor([len(ids) for ids in prompts])
    empty = torch.zeros(len(prompts), after)
    return Rollout(
        rows=torch.arange(len(prompts)),
        groups=torch.arange(len(prompts)),
        prompt_ids=torch.tensor(left, dtype=torch.long),
        prompt_mask=torch.arange(before) >= before - lengths[:, None],
        response_ids=torch.tensor(right, dtype=torch.long),
        response_mask=mask_of([len(ids) for ids in responses], after),
        min_new=torch.zeros(len(prompts), dtype=torch.long),
        finished=torch.tensor(ended, dtype=torch.bool),
        stopped=torch.zeros(len(prompts), dtype=torch.bool),
        logp=empty,
        ref_logp=empty,
        values=empty,
    )

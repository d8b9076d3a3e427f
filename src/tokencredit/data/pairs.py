"""Preference pairs as token ids: a prompt as rollouts have it, and two answers that end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokencredit.data.prompts import conversation_ids
from tokencredit.data.records import Record
from tokencredit.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two responses to one prompt, in order of preference. The names are TRL's."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longer response."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def tokens(self) -> int:
        """How many tokens are read of the pair: its prompt twice."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    def flaw(self, max_length: int) -> str | None:
        """Why nothing can be learned from the pair; None for a usable one."""
        if not (self.prompt_ids and self.chosen_ids and self.rejected_ids):
            return "empty"
        if self.chosen_ids == self.rejected_ids:
            return "chosen equals rejected"
        return "too long" if self.longest > max_length else None

    def columns(self) -> dict[str, Any]:
        """What TRL's collator reads."""
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        return {name: getattr(self, name) for name in names}


def usable(pairs: Iterable[Pair], max_length: int) -> tuple[list[Pair], Counter[str]]:
    """The pairs from which something can be learned, and how many were dropped for what."""
    kept, dropped = [], Counter[str]()
    for pair in pairs:
        flaw = pair.flaw(max_length)
        if flaw is None:
            kept.append(pair)
        else:
            dropped[flaw] += 1
    return kept, dropped


def read_pairs(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Pair], Counter[str]]:
    """The pairs of these records, tokenised once, and how many were dropped for what.

    Prompts are those of rollouts, and responses end with the end token, as those of a policy do.
    Where a vocabulary would join the end of a prompt and the beginning of an answer into one token,
    no policy can say it: the answer is then read by itself, and counted as "split at the prompt".
    """
    found, joined = [], 0
    for record in records:
        prompt = _prompt(record, tokenizer)
        answers = [_answer(record, text, prompt, tokenizer) for text in _texts(record)]
        joined += any(split for _, split in answers)
        chosen, rejected = (ids for ids, _ in answers)
        found.append(Pair(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected))
    kept, dropped = usable(found, max_length)
    return kept, dropped + Counter({"split at the prompt": joined} if joined else {})


def _texts(record: Record) -> tuple[str, str]:
    assert record.rejected is not None
    if record.messages is not None:
        return record.messages[-1]["content"], record.rejected
    return record.completion or "", record.rejected


def _prompt(record: Record, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if record.messages is not None:
        return conversation_ids(record.messages[:-1], tokenizer)
    return list(tokenizer(record.prompt or "")["input_ids"])


def _answer(
    record: Record, text: str, prompt: list[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], bool]:
    """The ids of an answer with its end token, and whether it had to be split from its prompt.

    No ids for an answer of white space alone.
    """
    if not text.strip():
        return [], False
    ids, split = None, False
    if record.messages is None:
        whole = list(tokenizer(f"{record.prompt}{text}")["input_ids"])
        split = whole[: len(prompt)] != prompt
        ids = None if split else whole[len(prompt) :]
    if ids is None:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    return (ids if ids and ids[-1] == end else [*ids, end]), split


def as_rollout(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad: int) -> Rollout:
    """Prompts and responses as a judge reads them; log-probabilities and values are zero."""
    count = len(prompts)
    prompt_ids, prompt_mask = _padded(prompts, pad, left=True)
    response_ids, response_mask = _padded(responses, pad, left=False)
    zeros, none = torch.zeros(response_ids.shape), torch.zeros(count, dtype=torch.bool)
    return Rollout(
        rows=torch.arange(count),
        groups=torch.arange(count),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        min_new=torch.zeros(count, dtype=torch.long),
        finished=~none,
        stopped=none,
        logp=zeros,
        ref_logp=zeros,
        values=zeros,
    )


def _padded(rows: Sequence[list[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width).bool()
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), True
    return ids, mask

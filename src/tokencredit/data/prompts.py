"""The prompts of every step, as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import torch

from tokencredit.data.dataset import MAX_DROPPED, PromptSpec
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds, token_ids
from tokencredit.errors import UserError, require
from tokencredit.rollout import Prompts, padded
from tokencredit.streams import integer, permutation, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.models.decoding.sampling import Sampling

TOO_LONG: Final = "prompt longer than the context"


class PromptStream:
    """An endless stream of prompts; each pass over the records has its own order and lengths."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerBase | TokenIds,
        spec: PromptSpec,
        sampling: Sampling,
        context: int,
    ) -> None:
        """Prompts of `records`; those that cannot become one are dropped and counted."""
        texts = long_texts(records, spec)
        self.token_ids = token_ids(tokenizer)
        self.spec = spec
        self.sampling = sampling
        self.dropped: dict[str, int] = {}
        if texts:
            self.records: Sequence[Record] = texts
            self.dropped["too short for a prompt"] = len(records) - len(texts)
        else:
            self.records = self._usable(records, context - sampling.longest)

    def batch(
        self, seed: int, step: int, size: int, stream: str = "rl", samples_per_prompt: int = 1
    ) -> Prompts:
        """`size` rows of one step: each of its prompts, `samples_per_prompt` times in a row."""
        count = size // samples_per_prompt
        positions = range(step * count, (step + 1) * count)
        drawn = self.drawn(seed, stream, positions)
        chosen = [prompt for prompt in drawn for _ in range(samples_per_prompt)]
        pad = int(self.token_ids.tokenizer.pad_token_id)
        ids, mask = padded([ids for _, ids in chosen], pad, left=True)
        low, high = self.sampling.min_new_tokens, self.sampling.max_new_tokens
        rows = [record.row for record, _ in chosen]
        samples = [rows[:index].count(row) for index, row in enumerate(rows)]
        lengths = [
            integer(stream_key(seed, stream, "response length", step, row, sample), low, high)
            for row, sample in zip(rows, samples, strict=True)
        ]
        return Prompts(
            rows=torch.tensor(rows),
            samples=torch.tensor(samples),
            groups=torch.arange(size) // samples_per_prompt,
            ids=ids,
            mask=mask,
            min_new=torch.full((size,), self.sampling.eos_from()),
            max_new=torch.tensor(lengths),
        )

    def drawn(
        self, seed: int, stream: str, positions: Iterable[int]
    ) -> list[tuple[Record, list[int]]]:
        """The records at these places of a stream, each with the ids of its prompt."""
        return [self._at(seed, stream, position) for position in positions]

    def _at(self, seed: int, stream: str, position: int) -> tuple[Record, list[int]]:
        epoch, index = divmod(position, len(self.records))
        order = self._order(stream_key(seed, stream, "order", epoch))
        record = self.records[int(order[index])]
        key = stream_key(seed, stream, "prompt length", epoch, record.row)
        return record, prompt_ids(record, self.token_ids, self.spec, key)

    def _order(self, key: int) -> Sequence[int]:
        if getattr(self, "_cached", (None,))[0] != key:
            self._cached = (key, permutation(key, len(self.records)))
        return self._cached[1]  # type: ignore[return-value]

    def _usable(self, records: Sequence[Record], longest: int) -> Sequence[Record]:
        records, refused = self.token_ids.accepted(records)
        self.dropped |= refused
        lengths = [len(prompt_ids(record, self.token_ids, self.spec, 0)) for record in records]
        wanted = self._within_limit(records, lengths)
        usable = [record for record, length in wanted if length <= longest]
        too_long = len(wanted) - len(usable)
        self.dropped[TOO_LONG] = too_long
        if too_long > MAX_DROPPED * len(wanted):
            raise UserError(
                f"dataset: {too_long} of {len(wanted)} prompts leave no room for the response "
                f"(the context has room for prompts of {longest} tokens); raise model.context, "
                "lower rollout.max_new_tokens, shorten the prompts, or leave long ones out with "
                "dataset.prompt.max_prompt_tokens"
            )
        return usable

    def _within_limit(
        self, records: Sequence[Record], lengths: Sequence[int]
    ) -> list[tuple[Record, int]]:
        """The records and lengths that the setting lets pass: a choice, so nothing is an error."""
        limit = self.spec.max_prompt_tokens
        found = list(zip(records, lengths, strict=True))
        if limit is None:
            return found
        wanted = [(record, length) for record, length in found if length <= limit]
        require(
            bool(wanted),
            "dataset.prompt.max_prompt_tokens",
            limit,
            f"each of {len(found)} prompts is longer (the shortest has {min(lengths)}); raise it",
        )
        self.dropped["prompt longer than max_prompt_tokens"] = len(found) - len(wanted)
        return wanted


def long_texts(records: Sequence[Record], spec: PromptSpec) -> list[Record]:
    """The texts that are long enough to begin a prompt; none where records name their prompts.

    Raises `UserError` where no text is, or there are no records.
    """
    if not records:
        raise UserError(
            "dataset.splits: the split that prompts are taken from is empty; give it a share "
            "above 0"
        )
    texts = [record for record in records if record.is_text]
    usable = [record for record in texts if len(record.text) > spec.min_characters]
    require(
        bool(usable) or not texts,
        "dataset.prompt.min_characters",
        spec.min_characters,
        f"none of {len(texts)} records is longer; lower it",
    )
    return usable


def prompt_ids(
    record: Record, tokenizer: PreTrainedTokenizerBase | TokenIds, spec: PromptSpec, key: int
) -> list[int]:
    """The ids of a record's prompt: its own, or its first tokens, as many as `key` says."""
    ids = token_ids(tokenizer)
    if not record.is_text:
        return ids.begin(record).ids
    return ids.opened(record.text)[: integer(key, spec.min_tokens, spec.max_tokens)]

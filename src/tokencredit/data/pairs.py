"""Preference pairs as token ids: a prompt as rollouts have it, and two answers that end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds, token_ids
from tokencredit.rollout import Prompts, Rollout, padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two responses to one prompt, in order of preference. The names are TRL's."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float | None = None
    """By how much the chosen one should win, in score; None: 0, where others have one."""

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
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase | TokenIds, max_length: int
) -> tuple[list[Pair], Counter[str]]:
    """The pairs of these records, tokenised once, and how many were dropped for what.

    Prompts are those of rollouts, and responses end as those of a policy do. What else is noted of
    pairs (`TokenIds.answer`) is counted beside that.
    """
    ids = token_ids(tokenizer)
    accepted, noted = ids.accepted(records)
    found = []
    for record in accepted:
        assert record.rejected is not None
        begun = ids.begin(record)
        chosen, rejected = (ids.answer(begun, text) for text in (record.answer, record.rejected))
        found.append(
            Pair(
                prompt_ids=begun.ids,
                chosen_ids=chosen.ids,
                rejected_ids=rejected.ids,
                margin=record.margin,
            )
        )
        noted.update(begun.notes | chosen.notes | rejected.notes)
    kept, dropped = usable(found, max_length)
    return kept, dropped + noted


def as_rollout(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad: int) -> Rollout:
    """Prompts and responses as a judge reads them; log-probabilities and values are zero."""
    ids, mask = padded(responses, pad)
    finished = torch.ones(len(ids), dtype=torch.bool)
    asked = Prompts.padded(prompts, pad)
    return Rollout.blank(asked, ids, mask, finished=finished, stopped=~finished)

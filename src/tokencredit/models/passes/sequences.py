"""From prompts and responses to the sequences models read. Ends are lengths, never ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.rollout import Rollout

PART_TOKENS: Final = 2048
"""Tokens of one forward pass, padding included: enough to keep a processor busy, little memory."""


class ScoreAt(str, Enum):
    """Where a reward model's score is read."""

    end = "end"
    """At the last token of a response, the end token included."""
    before_end = "before_end"
    """At the last token that is no end token, as a Hugging Face classifier does whose pad token is
    its end token."""


def score_position(
    rollout: Rollout, last: Int[torch.Tensor, "B"], at: ScoreAt
) -> Int[torch.Tensor, "B"]:
    """Where the score is read, given where the last response token stands."""
    if at is ScoreAt.end:
        return last
    ended = rollout.finished & ~rollout.stopped  # by the end token, not by a stop string
    return (last - ended.long()).clamp(min=0)


def position_ids(mask: Bool[torch.Tensor, "B S"]) -> Int[torch.Tensor, "B S"]:
    """Positions that count real tokens only, so that padding on either side changes nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def compact(
    rollout: Rollout, pad_id: int
) -> tuple[
    Int[torch.Tensor, "B S"],
    Bool[torch.Tensor, "B S"],
    Int[torch.Tensor, "B"],
    Int[torch.Tensor, "B"],
]:
    """Prompt and response joined without gaps and right-padded.

    Returns ids, mask, the position of the first response token, and the position of the last one.
    """
    lengths = rollout.prompt_mask.sum(dim=1)
    total = rollout.total_lengths
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], dim=1)
    # A stable sort by "is padding" moves real tokens to the front and keeps their order.
    order = torch.argsort((~mask).long(), dim=1, stable=True)[:, : int(total.max())]
    mask = mask.gather(1, order)
    ids = torch.where(mask, ids.gather(1, order), pad_id)
    return ids, mask, lengths, total - 1


def parts(
    lengths: Int[torch.Tensor, "B"], tokens: int | None = None
) -> Iterator[tuple[Int[torch.Tensor, "n"], int]]:
    """Rows of similar length, at most `tokens` tokens with padding (or one row), and a width.

    Without `tokens` it is `PART_TOKENS`. Every row is in exactly one part, longest first.
    """
    tokens = PART_TOKENS if tokens is None else tokens
    order = torch.argsort(lengths, stable=True, descending=True)
    widths, first = lengths[order].tolist(), 0
    while first < len(widths):
        count = max(1, tokens // widths[first])
        yield order[first : first + count], widths[first]
        first += count


def read_tokens(
    rollout: Rollout,
    read: Callable[[Int[torch.Tensor, "n S"]], Float[torch.Tensor, "n S k"]],
    filler: int = 0,
) -> Float[torch.Tensor, "B T+1 k"]:
    """What a causal model says at the last token of each prompt, and at each response token.

    `read` is given prompts and responses without gaps, right-padded with the id `filler`, some rows
    at a time, and says k numbers at each place. Slots behind a response hold zeros.
    """
    ids, _, start, last = compact(rollout, filler)
    mask = torch.nn.functional.pad(rollout.response_mask, (1, 0), value=True)
    columns = (start - 1)[:, None] + torch.arange(mask.shape[1], device=ids.device)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for rows, width in parts(last + 1):
        said = read(ids[rows, :width])
        place = columns[rows].clamp(min=0, max=width - 1)[..., None]
        taken = said.gather(1, place.expand(-1, -1, said.shape[2]))
        found.append((rows, torch.where(mask[rows, :, None], taken, 0.0)))
    order = torch.cat([rows for rows, _ in found])
    return torch.cat([taken for _, taken in found])[torch.argsort(order)]

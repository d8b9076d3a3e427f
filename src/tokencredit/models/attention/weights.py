"""The arithmetic of attention rows: softmax(q K^T) for some queries of each sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int

from tokencredit.errors import require

Weights = Callable[["torch.Tensor"], "tuple[torch.Tensor, torch.Tensor]"]
"""From rows (B, R), positions among all keys, to their weights (B, H, R, S), and to where a key was
visible (B, K, R, S), K = 1 or H; to be called as often as wanted."""


def query_positions(
    rows: Int[torch.Tensor, "B R"], batch: int, queries: int, keys: int
) -> Int[torch.Tensor, "B R"]:
    """Where the wanted rows, counted among all keys, lie among the queries, which come last.

    A row that is no query gets a position outside of 0 … queries − 1; `row_bias` refuses it.
    Raises ValueError unless there are rows for each sequence.
    """
    if rows.dim() != 2 or len(rows) != batch:
        raise ValueError(_needed(rows, batch, queries, keys))
    return rows - (keys - queries)


def at_positions(
    x: Float[torch.Tensor, "B Q *E"], position: Int[torch.Tensor, "B R"]
) -> torch.Tensor:
    """(B, R, *E) slices of each sequence; a position outside is read at the nearest one inside."""
    sequence = torch.arange(len(x), device=x.device)[:, None]
    return x[sequence, position.clamp(0, x.shape[1] - 1)]


def row_bias(
    mask: torch.Tensor | None,
    position: Int[torch.Tensor, "B R"],
    queries: int,
    keys: int,
    window: int | None,
) -> Float[torch.Tensor, "B K R S"]:
    """What is added to the scores of the rows, K = 1 or H: -inf where a key is hidden.

    `mask` is what transformers hands to an attention function: (B, 1 or H, Q, S), bool or additive;
    (B, S) for flash attention; or none, which means causal and nothing else. The last two leave a
    sliding window to the function. Raises ValueError for a row that is no query or sees no key.
    """
    row = _mask_rows(mask, position, queries, keys, window)
    if row.dtype == torch.bool:
        hidden, row = ~row, torch.zeros_like(row, dtype=torch.float32)
    else:  # additive masks hide with the lowest number
        hidden, row = row < torch.finfo(row.dtype).min / 2, row.float()
    outside = (position < 0) | (position >= queries)
    blind = hidden.all(dim=-1).any(dim=1)
    if bool((outside | blind).any()):  # one question to the device, not two
        rows = position + (keys - queries)
        if bool(outside.any()):
            raise ValueError(_needed(rows, len(position), queries, keys))
        wrong = blind.any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"rows = {_listed(rows)}: padding position in sequence {wrong}")
    return row.masked_fill(hidden, -torch.inf)


def _mask_rows(
    mask: torch.Tensor | None, position: torch.Tensor, queries: int, keys: int, window: int | None
) -> torch.Tensor:
    batch = len(position)
    if mask is not None and mask.dim() == 4:
        sequence = torch.arange(batch, device=position.device)[:, None]
        chosen = position.clamp(0, queries - 1)
        return mask[..., :keys].expand(batch, -1, -1, -1)[sequence, :, chosen].transpose(1, 2)
    ends = (position + (keys - queries))[:, None, :, None]
    key = torch.arange(keys, device=position.device)
    seen = key <= ends
    if window is not None:
        seen = seen & (key > ends - window)
    return seen if mask is None else seen & mask[:, None, None, :keys].bool()


def row_weights(
    query: Float[torch.Tensor, "B R H D"],
    key: Float[torch.Tensor, "B G S D"],
    bias: Float[torch.Tensor, "B K R S"],
    scaling: float,
) -> Float[torch.Tensor, "B H R S"]:
    """softmax(scaling · q K^T + bias) in float32; H / G query heads share a key head."""
    batch, groups, keys, width = key.shape
    rows, heads = query.shape[1:3]
    grouped = query.float().transpose(1, 2).reshape(batch, groups, -1, width)
    with torch.autocast(query.device.type, enabled=False):
        # Head by head: one product over all heads would first copy every key.
        scores = torch.stack(
            [torch.bmm(grouped[:, g], key[:, g].float().mT) for g in range(groups)], dim=1
        ).view(batch, heads, rows, keys)
    return torch.softmax(scores.mul_(scaling).add_(bias), dim=-1)


def head_mean(
    weights: Float[torch.Tensor, "B H *S"], heads: Sequence[int]
) -> Float[torch.Tensor, "B *S"]:
    """The mean over the named heads, or over all if none is named."""
    return (weights[:, list(heads)] if heads else weights).mean(dim=1)


def _needed(rows: torch.Tensor, batch: int, queries: int, keys: int) -> str:
    return f"rows = {_listed(rows)}: {batch} positions among the last {queries} of {keys} needed"


def _listed(rows: torch.Tensor) -> list[int]:
    found: list[int] = (rows.squeeze(1) if rows.dim() == 2 else rows).tolist()
    return found


def check_named(heads: Sequence[int]) -> None:
    """Raise for numbers that cannot name heads of any model."""
    require(
        all(head >= 0 for head in heads) and len(set(heads)) == len(heads),
        "judge.heads",
        list(heads),
        "must be different numbers from 0 on; an empty list means all heads",
    )

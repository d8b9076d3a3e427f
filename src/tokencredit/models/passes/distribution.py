"""Which ids a token was chosen from: the distribution that was sampled, imposed on logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.rollout import Kept

FLOOR: Final = -1e30
"""Logit of an impossible id: its probability is exactly 0, and p log p is too (0 × -inf is not)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """N tokens that were chosen, and what else could have been."""

    ids: Int[torch.Tensor, "N"]
    """The chosen ids."""
    temperature: float = 1.0
    """Logits are divided by this."""
    pad: int | None = None
    """An id that is never possible."""
    spare: Int[torch.Tensor, "K"] | None = None
    """Ids without a token, which are never possible either."""
    eos: int = 0
    """The end token that `banned` speaks of."""
    other_ends: tuple[int, ...] = ()
    """Further end tokens that it speaks of."""
    banned: Bool[torch.Tensor, "N"] | None = None
    """Where the end tokens were impossible; None: nowhere."""
    kept: Kept | None = None
    """The ids that top-k and top-p left possible, with `starts` and `counts` of shape (N,)."""

    def __getitem__(self, rows: slice) -> Choices:
        """Some of the tokens."""
        return replace(
            self,
            ids=self.ids[rows],
            banned=None if self.banned is None else self.banned[rows],
            kept=None
            if self.kept is None
            else Kept(
                ids=self.kept.ids, starts=self.kept.starts[rows], counts=self.kept.counts[rows]
            ),
        )

    def impose_(self, logits: Float[torch.Tensor, "N V"]) -> None:
        """Turn a model's logits into those of the distribution that was sampled, in place."""
        if self.temperature != 1:
            logits.div_(self.temperature)
        if self.pad is not None:
            logits[:, self.pad] = FLOOR
        if self.spare is not None:
            logits.index_fill_(1, self.spare, FLOOR)
        if self.banned is not None:
            for end in (self.eos, *self.other_ends):
                logits[:, end].masked_fill_(self.banned, FLOOR)
        if self.kept is not None:
            _leave_(logits, self.kept)


def _leave_(logits: Float[torch.Tensor, "N V"], kept: Kept) -> None:
    """Make every id that was not kept impossible, in rows where any was left out."""
    rows = kept.counts.nonzero().flatten()
    counts, starts = kept.counts[rows].long(), kept.starts[rows].long()
    owners = rows.repeat_interleave(counts)
    within = torch.arange(len(owners), device=owners.device)
    within = within - (counts.cumsum(0) - counts).repeat_interleave(counts)
    ids = kept.ids[starts.repeat_interleave(counts) + within].long()
    values = logits[owners, ids]
    logits.index_fill_(0, rows, FLOOR)
    logits[owners, ids] = values

"""Top-k and top-p: which ids are left, and a record of them that is small enough to keep."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.models.decoding.sampling import Sampling
from tokencredit.rollout import Kept

FIRST: Final = 256
"""Largest logits looked at first; eight times as many where their mass falls short of p."""


def likeliest(
    logits: Float[torch.Tensor, "n V"], top_k: int = 0, top_p: float = 1.0
) -> Bool[torch.Tensor, "n V"]:
    """The ids that top-k, then top-p, leave possible: at least one a row.

    `top_k` ids of the largest logits (0: all), and of these the smallest set whose mass, as a share
    of theirs, is at least `top_p` (Holtzman et al. 2020). Where logits tie, smaller ids go first.
    -inf is impossible and never kept.
    """
    most = min(top_k, logits.shape[1]) if top_k else logits.shape[1]
    values = logits.topk(most if top_k else min(FIRST, most), dim=1).values
    if top_p < 1:
        total = (values if top_k else logits).logsumexp(dim=1, keepdim=True)
        mass = (values - total).double().exp().cumsum(dim=1)
        while values.shape[1] < most and bool((mass[:, -1] < top_p).any()):
            values = logits.topk(min(8 * values.shape[1], most), dim=1).values
            mass = (values - total).double().exp().cumsum(dim=1)
        count = 1 + (mass < top_p).sum(dim=1)
    else:
        count = torch.full_like(values[:, 0], most, dtype=torch.long)
    count = torch.minimum(count, (values > -torch.inf).sum(dim=1)).clamp_(min=1)
    least = values.gather(1, count[:, None] - 1)
    kept = logits >= least
    if bool((kept.sum(dim=1) > count).any()):
        above = logits > least
        room = count - above.sum(dim=1)
        kept = above | (kept & ((kept & ~above).cumsum(dim=1) <= room[:, None]))
    return kept


class KeptIds:
    """Collects what was kept, token by token, of (B, T) tokens; never more than allowed."""

    def __init__(self, shape: tuple[int, int], sampling: Sampling, device: torch.device) -> None:
        """Nothing kept yet."""
        self.sampling = sampling
        self.total = 0
        self.ids = [torch.zeros(0, dtype=torch.int32, device=device)]
        self.starts = torch.zeros(shape, dtype=torch.long, device=device)
        self.counts = torch.zeros(shape, dtype=torch.int32, device=device)

    def add(
        self,
        rows: Int[torch.Tensor, "n"],
        position: int,
        kept: Bool[torch.Tensor, "n V"],
        possible: Bool[torch.Tensor, "n V"],
    ) -> None:
        """What was kept of the possible ids for the token at `position` of some rows."""
        counts = kept.sum(dim=1)
        less = counts < possible.sum(dim=1)
        counts = torch.where(less, counts, 0)
        ends = self.total + counts.cumsum(dim=0)
        self.starts[rows, position] = ends - counts
        self.counts[rows, position] = counts.to(torch.int32)
        self.total = int(ends[-1])
        if 4 * self.total <= self.sampling.room:
            self.ids.append(kept[less].nonzero()[:, 1].to(torch.int32))
        else:
            self.ids.clear()  # counted to the end all the same, for the message

    def finish(self, width: int) -> Kept:
        """What was kept at the first `width` positions; `UserError` where it was too much."""
        self.sampling.check_kept(self.total)
        return Kept(
            ids=torch.cat(self.ids), starts=self.starts[:, :width], counts=self.counts[:, :width]
        )

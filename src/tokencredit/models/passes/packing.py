"""How a batch of responses is read: without gaps, and only where tokens count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.models.loading.trunk import backbone
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.sequences import compact
from tokencredit.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Layout:
    """B prompts and responses joined without gaps, all padding on the right, N response tokens.

    Under causal attention nothing on the right is seen, so padding needs no mask and positions
    count 0, 1, 2, … in every row; attention runs at its fastest and padding cannot matter.
    """

    ids: Int[torch.Tensor, "B S"]
    sources: Int[torch.Tensor, "N"]
    """Where among the B × S states each response token was chosen: one before its own place."""
    mask: Bool[torch.Tensor, "B T"]
    """The response mask."""

    @classmethod
    def of(cls, rollout: Rollout, filler: int) -> Self:
        """The layout of a rollout; padding holds the id `filler`."""
        ids, _, start, _ = compact(rollout, filler)
        ids = ids[:, :-1]  # nothing is chosen after the last token
        mask = rollout.response_mask
        rows = torch.arange(len(ids), device=ids.device) * ids.shape[1]
        columns = torch.arange(mask.shape[1], device=ids.device)
        return cls(ids, ((rows + start - 1)[:, None] + columns)[mask], mask)

    def take(self, states: Float[torch.Tensor, "B S d"]) -> Float[torch.Tensor, "N d"]:
        """The states from which the response tokens were chosen."""
        return states.flatten(0, 1).index_select(0, self.sources)

    def spread(self, values: Float[torch.Tensor, "N"]) -> Float[torch.Tensor, "B T"]:
        """One number for each response token, zero where masked."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


def hidden_states(
    model: torch.nn.Module, layout: Layout, computation: Computation
) -> Float[torch.Tensor, "N d"]:
    """The hidden state from which each response token was, or would be, chosen by `model`."""
    with computation.autocast(layout.ids.device):
        hidden: torch.Tensor = backbone(model)(
            input_ids=layout.ids, attention_mask=None, use_cache=False
        ).last_hidden_state
    return layout.take(hidden)

"""Reading prompts, and then one token after another, with a model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokencredit.models.decoding.cache import RoomyCache
from tokencredit.models.passes.sequences import position_ids


class Reader:
    """Hidden states after the last token of each row; what was read before is in a cache."""

    def __init__(self, trunk: Any, limit: int) -> None:
        """`limit`: tokens a row may have, padding included."""
        self.trunk, self.cache, self.length = trunk, RoomyCache(limit), 0

    def start(self, ids: Int[Tensor, "n P"], mask: Bool[Tensor, "n P"]) -> Float[Tensor, "n d"]:
        """Read the prompts; one that several rows share is read once."""
        self.mask, self.padded = mask, not bool(mask.all())
        self.positions = position_ids(mask)
        distinct, place = torch.cat([ids, mask], dim=1).unique(dim=0, return_inverse=True)
        if len(distinct) == len(ids):
            return self._read(ids, mask, self.positions)
        first = place.new_zeros(len(distinct)).scatter_(0, place, torch.arange(len(ids)).to(place))
        states = self._read(ids[first], mask[first], self.positions[first])
        self.cache.batch_select_indices(place)
        return states[place]

    def select(self, chosen: Int[Tensor, "k"]) -> None:
        """Go on with these rows, in this order."""
        self.cache.batch_select_indices(chosen)
        self.mask, self.positions = self.mask[chosen], self.positions[chosen]

    def follow(self, token: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """Read one more token of each row."""
        self.positions = self.positions[:, -1:] + 1
        if self.padded:
            self.mask = torch.cat([self.mask, torch.ones_like(self.positions).bool()], dim=1)
        # Without padding nothing is masked, and no mask need be built for every token.
        return self._read(token[:, None], self.mask if self.padded else None, self.positions)

    def _read(
        self, ids: Int[Tensor, "n S"], mask: Bool[Tensor, "n L"] | None, positions: Tensor
    ) -> Float[Tensor, "n d"]:
        states: Tensor = self.trunk(
            input_ids=ids,
            attention_mask=None if mask is None else mask.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.length += ids.shape[1]
        assert self.cache.get_seq_length() == self.length, "the model left the cache aside"
        return states[:, -1]

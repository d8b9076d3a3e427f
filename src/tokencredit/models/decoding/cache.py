"""Keys and values of the tokens so far, written in place."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Int
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

FIRST: Final = 256
"""Positions a layer makes room for at first; twice as many as are filled, later on."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, views (B, H, S, d) of buffers with room for more.

    transformers' own layer copies everything it holds at every token.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: positions there will ever be."""
        DynamicLayer.__init__(self)
        self.limit = limit
        self.buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new positions (B, H, n, d); all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, news = self.get_seq_length(), (key_states, value_states)
        end = start + key_states.shape[2]
        if not self.buffers or end > self.buffers[0].shape[2]:
            olds = (self.keys, self.values) if start else (None, None)
            self.buffers = [self._roomier(*pair, end) for pair in zip(olds, news, strict=True)]
        for buffer, new in zip(self.buffers, news, strict=True):
            buffer[: len(new), :, start:end] = new
        self._show(len(key_states), end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Int[torch.Tensor, "n"]) -> None:
        """Row i becomes what row indices[i] was; only rows that change place are copied."""
        end = self.get_seq_length()
        if len(indices) > len(self.buffers[0]):
            self.buffers = [buffer[indices] for buffer in self.buffers]
        else:
            places = torch.arange(len(indices), device=indices.device)
            to = (indices != places).nonzero().squeeze(1)
            for buffer in self.buffers if len(to) else ():
                buffer[to, :, :end] = buffer[indices[to], :, :end]
        self._show(len(indices), end)

    def _roomier(self, old: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
        room = min(self.limit, max(FIRST, 2 * end))
        buffer = new.new_empty((*new.shape[:2], max(room, end), new.shape[3]))
        if old is not None:
            buffer[:, :, : old.shape[2]] = old
        return buffer

    def _show(self, rows: int, end: int) -> None:
        self.keys, self.values = (buffer[:rows, :, :end] for buffer in self.buffers)


class RoomyCache(DynamicCache):  # type: ignore[misc]
    """A layer of the kind above for each layer of the model."""

    def __init__(self, limit: int) -> None:
        """`limit`: positions there will ever be."""
        DynamicCache.__init__(self)
        self.layer_class_to_replicate = partial(RoomyLayer, limit)

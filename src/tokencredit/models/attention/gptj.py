"""Query rows of GPT-J's attention, computed again from what its attention module is given.

GPT-J does not use transformers' attention interface, so nothing can be put between its keys and
their use. A hook before the module projects and rotates them as the module does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int

from tokencredit.models.attention.weights import (
    Weights,
    at_positions,
    query_positions,
    row_bias,
    row_weights,
)

if TYPE_CHECKING:
    from transformers.models.gptj.modeling_gptj import GPTJAttention


class GPTJReader:
    """Reads rows from a `GPTJAttention`, whichever kernel it runs."""

    def __init__(self, module: GPTJAttention) -> None:
        """`module` is left as it is."""
        self.module = module

    @contextmanager
    def reading(self, visit: Callable[[Weights], None]) -> Iterator[None]:
        """Let each forward inside call `visit` with the way to its weights."""

        def before(module: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
            del module, args  # transformers names everything it hands over
            with torch.no_grad():
                visit(self._weights(inputs))

        handle = self.module.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _weights(self, inputs: dict[str, Any]) -> Weights:
        module, hidden, past = self.module, inputs["hidden_states"], inputs.get("layer_past")
        batch, queries, _ = hidden.shape
        places = inputs["position_ids"].expand(batch, -1)
        key = self._rotated(module.k_proj(hidden), places).transpose(1, 2)
        if past is not None and past.get_seq_length(module.layer_idx):
            key = torch.cat([past.layers[module.layer_idx].keys, key], dim=2)
        keys = key.shape[2]

        def weights(rows: Int[torch.Tensor, "B R"]) -> tuple[torch.Tensor, torch.Tensor]:
            position = query_positions(rows.to(hidden.device), batch, queries, keys)
            few, place = at_positions(hidden, position), at_positions(places, position)
            query = self._rotated(module.q_proj(few), place)
            bias = row_bias(inputs.get("attention_mask"), position, queries, keys, window=None)
            return row_weights(query, key, bias, 1 / module.scale_attn), bias > -torch.inf

        return weights

    def _rotated(
        self, x: Float[torch.Tensor, "B Q E"], places: Int[torch.Tensor, "B Q"]
    ) -> Float[torch.Tensor, "B Q H D"]:
        """Projected states cut into heads and turned by where they stand."""
        from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

        module = self.module
        x = x.unflatten(-1, (module.num_attention_heads, module.head_dim))
        table = module.embed_positions.to(places.device)[places].to(x.dtype)
        sin, cos = table.chunk(2, dim=-1)
        turned = module.rotary_dim or module.head_dim
        front = apply_rotary_pos_emb(x[..., :turned], sin, cos)
        return torch.cat([front, x[..., turned:]], dim=-1)

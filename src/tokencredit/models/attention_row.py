"""One query row of one layer's attention weights, read beside SDPA.

Attention-based credit (ABC) needs a single row: the weights that the position of the score pays to
the tokens before it. Asking transformers for attention maps forces the eager path and keeps every
layer's (B, H, T, T). Here the layer's own queries and keys are intercepted on their way to SDPA and
softmax(q_row K^T) is computed for that row alone: O(B H T) in memory, logits untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokencredit.errors import UserError, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION: Final = "tokencredit_sdpa_row"
"""Name under which the intercepting function is registered with transformers."""

_READERS: dict[nn.Module, AttentionRow] = {}
"""Attention modules that are being read, and by whom."""


class AttentionRow:
    """Reads one query row per sequence from one attention layer of a causal transformer.

    `layer` counts attention layers; -1 is the last. `model` may be wrapped (adapters, value heads):
    the outermost transformers model inside it is read. Use:

        reader = AttentionRow(model)
        with torch.no_grad(), reader.capture(rows):
            output = model(input_ids, attention_mask=mask, position_ids=positions)
        reader.weights  # (B, H, S)
    """

    def __init__(self, model: nn.Module, layer: int = -1) -> None:
        """Find the layer; raises `UserError` if there is none or the architecture has no hook."""
        self._model = _transformer(model)
        self._attention = _attention_layer(self._model, layer)
        self._rows: Tensor | None = None
        self._weights: Tensor | None = None

    @property
    def weights(self) -> Float[Tensor, "B H S"]:
        """Post-softmax weights of the last captured forward: float32, detached, masked keys 0."""
        if self._weights is None:
            raise RuntimeError("no forward pass of the model ran inside `capture`")
        return self._weights

    @contextmanager
    def capture(self, rows: Int[Tensor, " B"]) -> Iterator[AttentionRow]:
        """Read row `rows[b]` (position among all keys) of sequence b in the forward inside.

        The model runs with SDPA inside, and with its own attention implementation afterwards.
        """
        if self._attention in _READERS:
            raise RuntimeError("this attention layer is already being read")
        before = self._model.config._attn_implementation
        self._rows, self._weights = rows, None
        _READERS[self._attention] = self
        try:
            _use(self._model, IMPLEMENTATION)
            yield self
        finally:
            del _READERS[self._attention]
            self._rows = None
            _use(self._model, before)

    def read(
        self,
        query: Float[Tensor, "B H Q D"],
        key: Float[Tensor, "B G S D"],
        mask: Tensor | None,
        scaling: float | None,
    ) -> None:
        """Compute and keep the weights; called by the attention function of the layer."""
        assert self._rows is not None
        batch, _, queries, width = query.shape
        position = self._rows.to(query.device) - (key.shape[2] - queries)
        if position.shape != (batch,) or bool(((position < 0) | (position >= queries)).any()):
            raise ValueError(
                f"rows = {self._rows.tolist()}: {batch} positions among the last {queries} of "
                f"{key.shape[2]} are needed"
            )
        sequence = torch.arange(batch, device=query.device)
        one = query[sequence, :, position].float().reshape(batch, key.shape[1], -1, width)
        scores = torch.einsum("bghd,bgsd->bghs", one, key.float()).flatten(1, 2)
        scores = scores * (width**-0.5 if scaling is None else scaling)
        bias = self._bias(mask, key.shape[2], sequence, position)
        self._weights = torch.softmax(scores + bias, dim=-1)

    def _bias(
        self, mask: Tensor | None, keys: int, sequence: Tensor, position: Tensor
    ) -> Float[Tensor, "B K S"]:
        """What is added to the scores of the row, K = 1 or H: -inf where a key is hidden."""
        assert self._rows is not None
        if mask is None:  # transformers leaves out a mask that is causal and nothing else
            ends = self._rows.to(sequence.device)[:, None, None]
            row = torch.arange(keys, device=sequence.device) <= ends
        else:
            row = mask[..., :keys].expand(len(sequence), -1, -1, -1)[sequence, :, position]
        if row.dtype == torch.bool:
            row = torch.zeros_like(row, dtype=torch.float32).masked_fill(~row, -torch.inf)
        hidden = row < torch.finfo(row.dtype).min / 2  # additive masks hide with the lowest number
        blind = hidden.all(dim=-1).any(dim=-1).nonzero().flatten().tolist()
        if blind:
            raise ValueError(f"rows = {self._rows.tolist()}: padding position in sequence {blind}")
        return row.float().masked_fill(hidden, -torch.inf)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA as transformers runs it and, in a module that is being read, one row beside it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    reader = _READERS.get(module)
    if reader is not None:
        if options.get("position_bias") is not None:
            raise UserError("attention with position biases (T5, ALiBi) cannot be read row by row")
        with torch.no_grad():
            reader.read(query, key, attention_mask, options.get("scaling"))
    out: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return out, None


def _transformer(model: nn.Module) -> PreTrainedModel:
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise UserError(f"{type(model).__name__} holds no transformers model to read attention from")


def _attention_layer(model: PreTrainedModel, layer: int) -> nn.Module:
    """The self-attention module of the given layer, hooks registered."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    layers: dict[int, nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and getattr(module, "is_causal", False):
            layers[index] = module
    if not layers or not model._can_set_attn_implementation():
        raise UserError(
            f"{type(model).__name__}: its attention weights cannot be read; the architecture does "
            "not use transformers' attention interface (GPT-2, Llama, GPT-NeoX and most others do)"
        )
    count = len(layers)
    require(-count <= layer < count, "layer", layer, f"the model has {count} attention layers")
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    return layers[sorted(layers)[layer]]


def _use(model: PreTrainedModel, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:
        raise UserError(f"{type(model).__name__}: attention cannot be switched to {implementation}")

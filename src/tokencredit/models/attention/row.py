"""One query row of one layer's attention weights, read beside the model's own attention.

Attention-based credit (ABC) needs a single row: the weights that the position of the score pays to
the tokens before it. Asking transformers for attention maps forces the eager path and keeps every
layer's (B, H, T, T). Here one attention module's queries and keys are intercepted on their way to
SDPA, flash, or eager attention, and softmax(q_row K^T) is computed for that row alone: O(B H T) in
memory. Every other module, the masks, and the kernels are those of a plain forward, so its output
is the same bit for bit.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.errors import UserError, require
from tokencredit.models.attention.gptj import GPTJReader
from tokencredit.models.attention.weights import (
    Weights,
    at_positions,
    query_positions,
    row_bias,
    row_weights,
)

IMPLEMENTATION: Final = "tokencredit_row"
"""Name under which the intercepting function is registered with transformers."""

ALTERING: Final = ("position_bias", "softcap", "s_aux", "sinks")
"""Options of attention functions that change the weights in ways that are not computed here."""

ALTERED: Final = ("attn_logit_softcapping", "sinks")
"""Attributes of attention modules (Gemma 2, GPT-OSS) that do so, known before they run."""

_TAPS: dict[torch.nn.Module, Callable[..., tuple[torch.Tensor, torch.Tensor | None]]] = {}
"""What runs instead of the attention function of the modules that are being read."""


class Reader(Protocol):
    """A way to one attention module's weights."""

    def reading(self, visit: Callable[[Weights], None]) -> Any:
        """A context in which each forward calls `visit` with the way to its weights.

        `visit` asks for the rows it wants, in pieces if they are many; no gradient is recorded.
        """


class AttentionRow:
    """Reads one query row per sequence from one attention layer of a causal transformer.

    `layer` counts attention layers; -1 is the last. `model` may be wrapped (adapters, value heads):
    the outermost transformers model inside it is read. Use:

        reader = AttentionRow(model)
        with torch.no_grad(), reader.capture(rows):
            output = model(input_ids, attention_mask=mask, position_ids=positions)
        reader.weights  # (B, H, S)
    """

    def __init__(self, model: torch.nn.Module, layer: int = -1) -> None:
        """Find the layer; raises `UserError` if there is none or no way to its weights."""
        self._reader = open_reader(model, layer)
        self._weights: torch.Tensor | None = None

    @property
    def weights(self) -> Float[torch.Tensor, "B H S"]:
        """Post-softmax weights of the last captured forward: float32, detached, masked keys 0."""
        if self._weights is None:
            raise RuntimeError("no forward pass of the model ran inside `capture`")
        return self._weights

    def forget(self) -> None:
        """Keep no weights: what is small and stays splits the large memory that is free."""
        self._weights = None

    @contextmanager
    def capture(self, rows: Int[torch.Tensor, "B"]) -> Iterator[AttentionRow]:
        """Read row `rows[b]` (position among all keys) of sequence b in the forward inside."""
        self._weights = None

        def keep(weights: Weights) -> None:
            self._weights = weights(rows[:, None])[0][:, :, 0]

        with self._reader.reading(keep):
            yield self


class InterfaceReader:
    """Reads rows from a module that calls transformers' `AttentionInterface`.

    While it reads, the module alone sees a copy of the configuration that names another attention
    function; that one runs the model's own function, on the same arguments, after a look at them.
    """

    def __init__(self, module: torch.nn.Module, functions: dict[str, Any]) -> None:
        """`functions` are the names that the module's forward can see."""
        from transformers import AttentionInterface

        self.module, self.functions = module, functions
        AttentionInterface.register(IMPLEMENTATION, _attention)

    @contextmanager
    def reading(self, visit: Callable[[Weights], None]) -> Iterator[None]:
        """Let each forward inside call `visit` with the way to its weights."""
        module: Any = self.module
        if module in _TAPS:
            raise RuntimeError("this attention layer is already being read")
        config = module.config
        own = self.functions["ALL_ATTENTION_FUNCTIONS"].get_interface(
            config._attn_implementation, self.functions["eager_attention_forward"]
        )

        def tap(
            module: torch.nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            mask: torch.Tensor | None,
            **options: Any,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            with torch.no_grad():
                visit(partial(_weights, query, key, mask, options))
            out: tuple[torch.Tensor, torch.Tensor | None] = own(
                module, query, key, value, mask, **options
            )
            return out

        reading = copy.copy(config)
        # The public setter would change nested configurations too, which both copies share.
        reading._attn_implementation_internal = IMPLEMENTATION
        _TAPS[module], module.config = tap, reading
        try:
            yield
        finally:
            del _TAPS[module]
            module.config = config


def _attention(
    module: torch.nn.Module, *args: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return _TAPS[module](module, *args, **options)


def _weights(
    query: Float[torch.Tensor, "B H Q D"],
    key: Float[torch.Tensor, "B G S D"],
    mask: torch.Tensor | None,
    options: dict[str, Any],
    rows: Int[torch.Tensor, "B R"],
) -> tuple[Float[torch.Tensor, "B H R S"], Bool[torch.Tensor, "B K R S"]]:
    altering = [name for name in ALTERING if options.get(name) is not None]
    if altering:
        raise UserError(f"attention with {', '.join(altering)} cannot be read row by row")
    batch, _, queries, width = query.shape
    keys, scaling = key.shape[2], options.get("scaling")
    position = query_positions(rows.to(query.device), batch, queries, keys)
    few = at_positions(query.transpose(1, 2), position)
    bias = row_bias(mask, position, queries, keys, options.get("sliding_window"))
    scaling = width**-0.5 if scaling is None else scaling
    return row_weights(few, key, bias, scaling), bias > -torch.inf


def open_reader(model: torch.nn.Module, layer: int) -> Reader:
    """The way to the weights of attention layer `layer`; `UserError` if there is none."""
    from transformers.models.gptj.modeling_gptj import GPTJAttention

    transformer = _transformer(model)
    if transformer.config._attn_implementation == "flex_attention":  # its mask is no tensor
        raise UserError(
            f"{type(transformer).__name__}: its attention weights cannot be read under the kernel "
            "flex_attention, which hides them; load it with sdpa, flash attention, or eager"
        )
    layers: dict[int, torch.nn.Module] = {}
    for module in transformer.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and getattr(module, "is_causal", False):
            layers[index] = module
    if layers:
        count = len(layers)
        require(
            -count <= layer < count, "judge.layer", layer, f"the model has {count} attention layers"
        )
        chosen = layers[sorted(layers)[layer]]
        altered = [name for name in ALTERED if getattr(chosen, name, None) is not None]
        if altered:
            raise UserError(
                f"{type(transformer).__name__}: attention with {', '.join(altered)} cannot be read "
                "row by row; use another judge, or another model"
            )
        if isinstance(chosen, GPTJAttention):
            return GPTJReader(chosen)
        forward = inspect.unwrap(type(chosen).forward)
        if {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"} <= set(forward.__code__.co_names):
            return InterfaceReader(chosen, forward.__globals__)
    raise UserError(
        f"{type(transformer).__name__}: its attention weights cannot be read; the architecture "
        "neither uses transformers' attention interface (GPT-2, Llama, GPT-NeoX and most others "
        "do) nor is it GPT-J"
    )


def check_attention(model: torch.nn.Module, layer: int, heads: Sequence[int]) -> None:
    """Raise `UserError` for attention that a model does not have, or does not show."""
    open_reader(model, layer)
    check_heads(model, heads)


def head_count(model: torch.nn.Module) -> int:
    """How many query heads each attention layer of the model has."""
    return int(_transformer(model).config.get_text_config().num_attention_heads)


def check_heads(model: torch.nn.Module, heads: Sequence[int]) -> None:
    """Raise `UserError` for a head that the model does not have."""
    count = head_count(model)
    require(
        all(0 <= head < count for head in heads),
        "judge.heads",
        list(heads),
        f"the model has {count} attention heads a layer, numbered from 0 to {count - 1}",
    )


def _transformer(model: torch.nn.Module) -> Any:
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise UserError(f"{type(model).__name__} holds no transformers model to read attention from")

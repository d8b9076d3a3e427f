"""The head of a decode loop: one product after another of few states with one large weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

LIMIT: Final = 2**28
"""Bytes of the largest weight of which a second copy is made."""


def packed(head: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """`head` for as long as its weight does not change; faster, where torch can make it so.

    In float32 on a CPU, a product rearranges the weight first, which for some tens of rows takes
    about as long as the product itself. Here that happens once: the product takes two thirds of the
    time with 64 rows and less than half with 16. Anywhere else this is `head`. Values differ by
    rounding, as they do between two numbers of rows.
    """
    # What torch.compile does to a frozen linear layer; torch offers it under no public name.
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not (_suits(head) and all(hasattr(operators, name) for name in names)):
        return head
    assert isinstance(head, torch.nn.Linear)
    arrange, multiply = (getattr(operators, name) for name in names)
    weight = arrange(head.weight.detach(), None)
    parameter = dict(head.named_parameters()).get("bias")
    bias = None if parameter is None else parameter.detach()

    def product(states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = multiply(states, weight, bias, "none", [], "")
        return found

    return product


def _suits(head: torch.nn.Module) -> bool:
    """Whether `head` is a plain layer in float32 on a CPU, whole, and not too large."""
    return (
        type(head) is torch.nn.Linear
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and head.weight.device.type == "cpu"
        and head.weight.dtype is torch.float32
        and head.weight.shape == (head.out_features, head.in_features)
        and head.weight.nbytes <= LIMIT
    )

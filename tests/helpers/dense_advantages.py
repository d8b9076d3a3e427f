"""Advantages from whole tensors over all ids: the reference that the package does without."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokencredit.models.advantage_model import AdvantageHead


def dense_values(head: AdvantageHead, states: Tensor) -> Tensor:
    """f(s, z) of all states and ids, (N, V)."""
    return states @ head.down.weight.t() @ head.up.t()


def dense_policy(states: Tensor, head: nn.Linear, spare: Tensor | None = None) -> Tensor:
    """π(z|s) of all states and ids, (N, V)."""
    logits = head(states)
    if spare is not None:
        logits = logits.index_fill(1, spare, -torch.inf)
    policy: Tensor = logits.softmax(dim=1)
    return policy


def dense_advantages(
    head: AdvantageHead, states: Tensor, policy: Tensor, ids: Tensor | None = None
) -> Tensor:
    """f(s, z) − Σ_v π(v|s) f(s, v), of all ids (N, V), or of the chosen ones (N,)."""
    f = dense_values(head, states)
    centred = f - (policy * f).sum(dim=1, keepdim=True)
    return centred if ids is None else centred.gather(1, ids[:, None])[:, 0]

"""Dropout off while the model stays in training mode.

A rollout and the update that follows must see the same network, or the first ratio is not 1.
`model.eval()` would do that too, but it also turns gradient checkpointing off without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

NAMES = ("dropout", "pdrop", "layerdrop")
"""A number in a module or configuration whose name holds one of these is a dropout probability."""


def disable_dropout(model: nn.Module) -> int:
    """Set every dropout probability of `model` to 0, in modules, configurations, and adapters.

    Returns how many probabilities were above 0. Training mode and gradient checkpointing stay as
    they are.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            module.p = 0.0
            changed += 1
        changed += _zero(vars(module))
    return changed + sum(_zero(vars(config)) for config in _configs(model))


def _zero(fields: dict[str, Any]) -> int:
    """Set the dropout probabilities among `fields` to 0; how many were above 0."""
    positive = [
        name
        for name, value in fields.items()
        if any(part in name for part in NAMES)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and value > 0
    ]
    fields.update(dict.fromkeys(positive, 0.0))
    return len(positive)


def _configs(model: nn.Module) -> Iterator[Any]:
    """Every configuration object that a module of `model` holds, nested ones too, each once."""
    seen: set[int] = set()
    for module in model.modules():
        adapters = getattr(module, "peft_config", None)
        waiting = [getattr(module, "config", None)]
        waiting += list(adapters.values()) if isinstance(adapters, dict) else []
        while waiting:
            config = waiting.pop()
            if config is None or isinstance(config, dict) or id(config) in seen:
                continue
            seen.add(id(config))
            yield config
            waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]

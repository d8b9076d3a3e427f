"""What a step that failed was made of, for whoever looks into it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tokencredit.rollout import Batch

NAME = "failed_step.safetensors"


def dump(folder: Path, *parts: Batch) -> Path:
    """Write every tensor of these batches, by its name; a later failure replaces an earlier one."""
    found: dict[str, Tensor] = {}
    for part in parts:
        for item in fields(part):
            value = getattr(part, item.name)
            if isinstance(value, Tensor):
                found[item.name] = value.detach().cpu().contiguous().clone()
    path = folder / NAME
    save_file(found, path)
    return path

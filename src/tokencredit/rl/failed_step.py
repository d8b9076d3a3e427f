"""What a step that failed was made of, for whoever looks into it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from tokencredit.errors import UserError
from tokencredit.ops import keep
from tokencredit.rollout import Batch, Judgement, Rollout

NAME = "failed_step.safetensors"


def dump(folder: Path, *parts: Batch) -> Path:
    """Write every tensor of these batches, by its name; a later failure replaces an earlier one."""
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        for item in fields(part):
            value = getattr(part, item.name)
            if isinstance(value, torch.Tensor):
                found[item.name] = value.detach().cpu().contiguous().clone()
    path = folder / NAME
    from safetensors.torch import save_file

    save_file(found, path)
    return path


def require_finite(rollout: Rollout, judgement: Judgement, folder: Path | None, step: int) -> None:
    """Raise unless all that was said of counting tokens is finite; then dump it to `folder`."""
    evidence = keep(judgement.evidence, rollout.response_mask)
    bad = {
        "judge's numbers": ~evidence.isfinite().all(dim=1),
        "scorer's score": ~judgement.scores.isfinite(),
    }
    for name, rows in bad.items():
        if not rows.any():
            continue
        where = (
            "" if folder is None else f" The responses are in {dump(folder, rollout, judgement)}"
        )
        raise UserError(
            f"step {step}: the {name} for {int(rows.sum())} of {len(rows)} responses (first "
            f"{int(rows.nonzero()[0])}) are not finite, and nothing was trained on them; the last "
            f"checkpoint is kept. Look for a model whose weights or number format overflow.{where}"
        )

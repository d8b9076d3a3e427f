"""Checkpoints of before there were slices: whole weights, and torch's state of optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

WEIGHTS: Final = "trained.safetensors"


def shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the trained tensors in such a checkpoint; None if `folder` is none."""
    from safetensors import safe_open

    if not (folder / WEIGHTS).is_file():
        return None
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load(
    folder: Path,
    trained: Sequence[tuple[str, torch.nn.Parameter]],
    optimizer: Optimizer,
    masters: Sequence[torch.Tensor],
    rank: int,
) -> None:
    """Restore weights and optimizer, on as many processes as wrote them; `masters` are this
    process's copies of the weights, where DeepSpeed has divided the optimizer.

    Raises `UserError` where others wrote them.
    """
    from safetensors.torch import load_file

    files = sorted(folder.glob("optimizer-*.pt"))
    state: dict[str, Any] = torch.load(files[rank % len(files)], weights_only=True)
    held = state.get("masters", [])
    if [part.shape for part in held] != [part.shape for part in masters]:
        how = f"{len(files)} processes under ZeRO-2" if held else "no sharding"
        raise UserError(
            f"{folder}: was written with {how}, in a form that other processes cannot read; go on "
            "with the same hardware for a step, which writes the form of today"
        )
    saved = load_file(folder / WEIGHTS)
    for name, parameter in trained:
        parameter.data.copy_(saved[name])
    optimizer.load_state_dict(state["optimizer"])
    for master, numbers in zip(masters, held, strict=True):
        master.copy_(numbers)

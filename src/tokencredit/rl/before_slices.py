"""Checkpoints of before there were slices: whole weights, and torch's state of optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.errors import UserError

if TYPE_CHECKING:
    from tokencredit.rl.engine import Engine

WEIGHTS: Final = "trained.safetensors"


def shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the trained tensors in such a checkpoint; None if `folder` is none."""
    from safetensors import safe_open

    if not (folder / WEIGHTS).is_file():
        return None
    with safe_open(folder / WEIGHTS, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load(engine: Engine, folder: Path) -> None:
    """Restore weights and optimizer, on as many processes as wrote them."""
    from safetensors.torch import load_file

    saved, world = load_file(folder / WEIGHTS), engine.world
    trained = engine.trained()
    _copy((tensor.data for _, tensor in trained), (saved[name] for name, _ in trained))
    files = sorted(folder.glob("optimizer-*.pt"))
    state: dict[str, Any] = torch.load(files[world.rank % len(files)], weights_only=True)
    divided = "masters" in state
    if (divided, len(files)) != (world.sharded, world.size if world.sharded else 1):
        how = f"{len(files)} processes under ZeRO-2" if divided else "no sharding"
        raise UserError(
            f"{folder}: was written with {how}, in a form that other processes cannot read; go on "
            "with the same hardware for a step, which writes the form of today"
        )
    if not world.sharded:
        engine.optimizer.load_state_dict(state["optimizer"])
        return
    inner = engine.policy.optimizer
    inner.optimizer.load_state_dict(state["optimizer"])
    _copy((part.data for part in inner.single_partition_of_fp32_groups), state["masters"])


def _copy(targets: Iterable[torch.Tensor], sources: Iterable[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)

"""Checkpoints of trained weights and their optimizer's state as named slices, without pickle.

Each process writes one file, `slices-<rank>.safetensors`, of the parts that its optimizer moves:
master weight, exp_avg, and exp_avg_sq of each. Nothing is gathered for that, and since each part
says where in its tensor it begins, any other number of processes, or way of dividing, can read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import torch

from tokencredit.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

MASTER: Final = "master"
MOMENTS: Final = ("exp_avg", "exp_avg_sq")
STEP: Final = "step"
LAYOUT: Final = "slices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The part of one trained tensor that this process's optimizer moves."""

    name: str
    """Of the tensor."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    """Where it begins, in the whole tensor as a row of numbers."""
    master: torch.Tensor
    """The optimizer's own numbers, (n,); a view, so that writing to it changes them."""
    moments: Mapping[str, torch.Tensor]
    """Views of the optimizer's means, (n,), by name."""
    step: torch.Tensor
    """How many steps these have seen, as the optimizer counts them."""

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + self.master.numel()


def of_optimizer(named: Iterable[tuple[str, torch.nn.Parameter]], own: Optimizer) -> list[Slice]:
    """Every trained tensor as a whole, of an optimizer that nothing divides."""
    whole = slice(None)
    return [
        slice_of(name, tuple(p.shape), 0, (p.data, whole), state_of(own, p)) for name, p in named
    ]


def state_of(own: Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """AdamW's state of one of its tensors, made if it has not moved it yet."""
    state: dict[str, torch.Tensor] = own.state[parameter]
    if not state:
        state[STEP] = torch.zeros((), dtype=torch.float32)
        for name in MOMENTS:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


def slice_of(
    name: str,
    shape: tuple[int, ...],
    start: int,
    place: tuple[torch.Tensor, slice],
    state: Mapping[str, torch.Tensor],
) -> Slice:
    """The slice that begins at `start` of a tensor and lies at `place` in one of the optimizer's
    tensors, which has this `state`."""
    flat, part = place
    return Slice(
        name=name,
        shape=shape,
        start=start,
        master=flat.view(-1)[part],
        moments={moment: state[moment].view(-1)[part] for moment in MOMENTS},
        step=state[STEP],
    )


class Place(TypedDict):
    """What a file says of a slice."""

    shape: list[int]
    """Of the whole tensor."""
    start: int
    stop: int
    step: float


def write(slices: Sequence[Slice], folder: Path, rank: int) -> None:
    """Write this process's slices to its file in `folder`."""
    from safetensors.torch import save_file

    tensors, layout = dict[str, torch.Tensor](), dict[str, Place]()
    for each in slices:
        shape, steps = list(each.shape), float(each.step)
        layout[each.name] = Place(shape=shape, start=each.start, stop=each.stop, step=steps)
        for kind, numbers in ((MASTER, each.master), *each.moments.items()):
            tensors[_key(each.name, kind)] = numbers.detach().clone()
    save_file(tensors, folder / f"slices-{rank:05d}.safetensors", {LAYOUT: json.dumps(layout)})


def _key(name: str, kind: str) -> str:
    return f"{name}/{kind}"


@dataclass(frozen=True)
class Kept:
    """The slices of all processes in a folder, whichever processes these were."""

    folder: Path

    @cached_property
    def _layouts(self) -> list[tuple[Path, dict[str, Place]]]:
        """Every file, and what it says of its slices."""
        from safetensors import safe_open

        found = []
        for path in sorted(self.folder.glob("slices-*.safetensors")):
            with safe_open(path, "pt") as file:
                found.append((path, json.loads(file.metadata()[LAYOUT])))
        return found

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole tensors' shapes, by name."""
        layouts = (layout for _, layout in self._layouts)
        return {name: tuple(at["shape"]) for layout in layouts for name, at in layout.items()}

    @cached_property
    def parts(self) -> dict[str, list[tuple[int, int, float, Path]]]:
        """Start, stop, steps, and file of the slices of each tensor, in their order."""
        found: dict[str, list[tuple[int, int, float, Path]]] = {name: [] for name in self.shapes}
        for path, layout in self._layouts:
            for name, at in layout.items():
                found[name].append((at["start"], at["stop"], at["step"], path))
        return {name: sorted(each) for name, each in found.items()}

    def read(self, name: str, kind: str, start: int, stop: int) -> torch.Tensor:
        """The numbers of one kind from `start` to `stop` of a tensor, (n,).

        Raises `UserError` where no file has them all.
        """
        from safetensors import safe_open

        pieces, reached = list[torch.Tensor](), start
        for begin, end, _, path in self.parts.get(name, ()):
            if begin <= reached < end and reached < stop:
                with safe_open(path, "pt") as file:
                    part = slice(reached - begin, min(stop, end) - begin)
                    pieces.append(file.get_slice(_key(name, kind))[part])
                reached = min(stop, end)
        if reached < stop:
            raise UserError(
                f"{self.folder}: {kind} of {name} is missing from {reached} to {stop}; a file of "
                "one of the processes that wrote it is lost. Restore it, or delete the checkpoint"
            )
        return torch.cat(pieces) if pieces else torch.empty(0)

    def whole(self, name: str) -> torch.Tensor:
        """The weights of one tensor."""
        parts, shape = self.parts, self.shapes[name]
        return self.read(name, MASTER, 0, parts[name][-1][1]).view(shape)

    def weights(self) -> dict[str, torch.Tensor]:
        """Every trained tensor as a whole, by name."""
        return {name: self.whole(name) for name in self.parts}


def restore(slices: Sequence[Slice], kept: Kept) -> None:
    """Write what is kept into the optimizer's numbers."""
    for each in slices:
        each.master.copy_(kept.read(each.name, MASTER, each.start, each.stop))
        for moment, numbers in each.moments.items():
            numbers.copy_(kept.read(each.name, moment, each.start, each.stop))
        each.step.fill_(kept.parts[each.name][0][2])

"""Two runs, number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from matrix.cells import BATCH, Ran

FIRST: Final = 1e-5
"""How far a metric of the first step may lie apart, of its size or of 1 if that is more."""
TEN: Final = 1e-4
"""The same after ten steps on the same responses; and trained tensors, of their norm."""
SHARES: Final = ("ppo/clip_fraction", "value/clip_fraction")
MOVED: Final = 2.0
"""Tokens that may lie on the other side of a bound, of which a share is told."""
OWN: Final = ("ppo/ratio_max_dev", "update/padding")
"""The first is rounding itself, the second that of each process's own part."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How far a run lies from that of one process."""

    cell: str
    first: float
    """Largest difference of a metric in the first step."""
    ten: float
    """The same over ten steps on the same responses."""
    weights: float
    """Largest difference of a trained tensor after these."""
    parts: int | None
    """Left alone, the first step with another response; None: there is none."""
    wrong: str = ""
    """What is out of bounds, or has failed."""

    def line(self) -> str:
        """For people."""
        parts = "none" if self.parts is None else f"step {self.parts}"
        return (
            f"{self.cell:{WIDTH}} {self.first:9.1e} {self.ten:9.1e} {self.weights:9.1e}  {parts:8}"
            f"  {self.wrong or 'within'}"
        )


WIDTH: Final = 46
HEAD: Final = f"{'cell':{WIDTH}} {'step 0':>9} {'ten':>9} {'weights':>9}  {'parts':8}  bounds"


def compare(cell: str, one: Ran, left: Ran | None, given: Ran) -> Finding:
    """`left` was left alone, `given` was given the responses of `one`."""
    first, ten = worst(given.log[:1], one.log[:1]), worst(given.log, one.log)
    weights = worst_weights(given.weights, one.weights)
    parts = None if left is None else parting(left, one)
    bounds = ((first, FIRST, "step 0"), (ten, TEN, "ten steps"), (weights, TEN, "weights"))
    wrong = [f"{what}: {found.name}" for found, bound, what in bounds if not found.size <= bound]
    if parts == 0:
        wrong.append("other tokens in step 0")
    return Finding(cell, first.size, ten.size, weights.size, parts, "; ".join(wrong))


@dataclass(frozen=True, slots=True)
class Worst:
    """The largest of many differences."""

    size: float
    name: str


def worst(found: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> Worst:
    """Of the metrics of all steps; other names, or fewer steps, are infinitely far."""
    if [set(row) for row in found] != [set(row) for row in known]:
        return Worst(math.inf, "other metrics")
    return max(
        (
            Worst(distance(name, value, other[name], other), f"{name} in step {step}")
            for step, (row, other) in enumerate(zip(found, known, strict=True))
            for name, value in row.items()
            if name not in OWN
        ),
        key=lambda each: each.size,
    )


def distance(name: str, value: object, known: object, row: Mapping[str, Any]) -> float:
    """Of a metric, of its size or of 1; of a share none, while few tokens have moved."""
    if value == known:
        return 0.0
    if not isinstance(value, int | float) or not isinstance(known, int | float):
        return math.inf
    apart = abs(value - known)
    if name in SHARES and apart * row["length/mean"] * BATCH < MOVED + 0.5:
        return 0.0
    return apart / max(1.0, abs(known)) if math.isfinite(apart) else math.inf


def worst_weights(found: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor]) -> Worst:
    """Of the trained tensors, by norm: Adam makes a full step of what is nothing but rounding."""
    if found.keys() != known.keys():
        return Worst(math.inf, "other tensors")
    apart = {n: float((t - known[n]).norm() / known[n].norm()) for n, t in found.items()}
    name = max(apart, key=apart.__getitem__)
    return Worst(apart[name], name)


def parting(found: Ran, known: Ran) -> int | None:
    """The first step with another response; None where there is none."""
    said, own = found.said, known.said
    steps = {
        int(step)
        for name, ids in own.items()
        for _, _, step, _ in [name.split("|")]
        if not (name in said and torch.equal(said[name], ids))
    }
    return min(steps, default=None)

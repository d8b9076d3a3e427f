"""The floors of the house, from the `layers` contract of pyproject.toml.

`python -m architecture.floors`, with tests/ on the path, prints the floors that the imports of today
allow, in the form of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from importlinter.api import read_configuration
from importlinter.contracts.layers import LayersContract

from architecture.imports import Package, read_package

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Floor:
    """One line of the contract: what stands at one height."""

    rooms: tuple[str, ...]
    """Full names of modules, sorted."""
    apart: bool
    """Whether they know nothing of each other."""


def contract() -> LayersContract:
    """The one `layers` contract, as import-linter reads it."""
    read = read_configuration(str(ROOT / "pyproject.toml"))
    (options,) = (each for each in read["contracts_options"] if each["type"] == "layers")
    return LayersContract(options["name"], read["session_options"], options)


def floors() -> list[Floor]:
    """The floors, the roof first."""
    read: Any = contract()  # its fields are annotated with what reads them
    above = [f"{module.expression}." for module in read.containers or ()] or [""]
    return [
        Floor(
            tuple(sorted(each + tail.name for each in above for tail in layer.module_tails)),
            apart=layer.is_independent,
        )
        for layer in read.layers
    ]


def found(package: Package) -> list[Floor]:
    """The floors that hold today: each room as low as what it imports lets it stand.

    Rooms that reach each other share a floor and may import each other; all others of one height
    know nothing of each other, by how heights come about.
    """
    rooms = sorted({top for name in package.modules if (top := _top(name)) != package.name})
    known = {room: set[str]() for room in rooms}
    for importer, targets in package.graph.items():
        if (here := _top(importer)) in known:
            known[here] |= {there for target in targets if (there := _top(target)) in known} - {
                here
            }
    below = {room: _reached(room, known) for room in rooms}
    knots = {room: frozenset(o for o in below[room] if room in below[o]) | {room} for room in rooms}
    heights: dict[frozenset[str], int] = {}
    for room in sorted(rooms, key=lambda room: len(below[room] - knots[room])):
        under = {knots[other] for other in below[room] - knots[room]}
        heights[knots[room]] = 1 + max((heights[knot] for knot in under), default=-1)
    levels: dict[int, list[frozenset[str]]] = {}
    for knot, height in heights.items():
        levels.setdefault(height, []).append(knot)
    return [
        Floor(tuple(sorted(set().union(*knots))), apart=all(len(knot) == 1 for knot in knots))
        for _, knots in sorted(levels.items(), reverse=True)
    ]


def _top(module: str) -> str:
    """The package's folder or file that a module lies in."""
    return ".".join(module.split(".")[:2])


def _reached(room: str, known: Mapping[str, set[str]]) -> set[str]:
    """Every room that `room` reaches, over others too."""
    seen, waiting = set[str](), [room]
    while waiting:
        for other in known[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


if __name__ == "__main__":
    for floor in found(read_package(ROOT / "src" / "tokencredit")):
        names = (room.partition(".")[2] for room in floor.rooms)
        print(f'  "{(" | " if floor.apart else " : ").join(names)}",')

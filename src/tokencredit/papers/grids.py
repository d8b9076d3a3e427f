"""The points of a grid, which of them lie at its edges, and how a grid goes on beyond one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from tokencredit.errors import UserError

Grid = Mapping[str, Sequence[float]]
"""Values to try by dotted key, each list rising."""
DIGITS: Final = 6
"""Significant digits of a value beyond an edge: 0.05² / 0.2 is 0.0125, not 0.012500000000000002."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value for each key of a grid, in the order of the grid's keys."""

    values: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        """The overrides that set it, with spaces between."""
        return " ".join(self.overrides())

    def overrides(self) -> list[str]:
        """`KEY=VALUE` of each key, as a command line has them."""
        return [f"{key}={value!r}" for key, value in self.values]

    def moved(self, key: str, value: float) -> Point:
        """The point with another value of one key."""
        return Point(tuple((name, value if name == key else own) for name, own in self.values))

    def value(self, key: str) -> float:
        """Its value of a key."""
        return dict(self.values)[key]


def point_of(text: str) -> Point:
    """The point that `str` wrote. Raises `UserError` for a text that is none."""
    try:
        parts = [part.split("=") for part in text.split()]
        return Point(tuple((key, float(value)) for key, value in parts))
    except ValueError:
        raise UserError(f"point = {text!r}: must be KEY=NUMBER, with a space between two") from None


def points(grid: Grid) -> list[Point]:
    """Every combination of the values, the last key's changing fastest; none of an empty grid."""
    if not grid:
        return []
    return [Point(tuple(zip(grid, values, strict=True))) for values in product(*grid.values())]


def edges(point: Point, tried: Sequence[Point]) -> list[str]:
    """The keys of which `point` has the least or the greatest value of all that were tried."""
    found = []
    for key, value in point.values:
        values = [other.value(key) for other in tried]
        if value in {min(values), max(values)}:
            found.append(key)
    return found


def extension(best: Point, grid: Grid, count: int) -> list[Point]:
    """`count` further points next to the best one, each one value beyond the grid in one key.

    First over the edges at which the best point lies. Where other methods need more than that, the
    budget is filled with the grid's other ends, so that all methods get the same number.
    """
    at = edges(best, points(grid))
    wanted = [(key, best.value(key) == max(grid[key])) for key in at]
    ends = [(key, above) for key in grid for above in (True, False)]
    order = list(dict.fromkeys([*wanted, *ends]))
    return [best.moved(key, beyond(grid[key], above=above)) for key, above in order[:count]]


def beyond(values: Sequence[float], *, above: bool) -> float:
    """The value that continues a rising list by the ratio of the two at that end."""
    last, before = (values[-1], values[-2]) if above else (values[0], values[1])
    return float(f"{last * last / before:.{DIGITS}g}")


def nested(point: Point) -> dict[str, object]:
    """The point as a tree of keys, as YAML holds it."""
    tree: dict[str, object] = {}
    for key, value in point.values:
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            inner = node.setdefault(parent, {})
            assert isinstance(inner, dict)
            node = inner
        node[name] = value
    return tree

"""How the phases grow with batch, response length, and model size: the points, and a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tokencredit.bench.report import SHOWN, summary
from tokencredit.bench.workload import HEAD_WIDTH, Work
from tokencredit.store import sheets

FACTORS: Final = (0.25, 0.5, 1.0, 2.0)
COLUMNS: Final = (
    "sweep",
    "value",
    "parameters",
    "phase",
    "seconds",
    "least",
    "greatest",
    "tokens_per_second",
    "peak_above_idle_mb",
)


class Sweep(str, Enum):
    """What is varied, all else held."""

    rows = "rows"
    new_tokens = "new_tokens"
    width = "width"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one sweep; the point that the sweeps share is in each of them."""

    sweep: Sweep
    value: int
    work: Work


def points(base: Mapping[Sweep, int], make: Callable[[Mapping[str, int]], Work]) -> list[Point]:
    """A quarter, a half, one time, and two times each of the base values."""
    return [
        Point(sweep, value, make({sweep.value: value}))
        for sweep, middle in base.items()
        for value in _values(sweep, middle)
    ]


def _values(sweep: Sweep, middle: int) -> Iterator[int]:
    wanted = [middle * factor for factor in FACTORS]
    fitted = [_width(x) if sweep is Sweep.width else max(1, round(x)) for x in wanted]
    yield from dict.fromkeys(fitted)


def _width(x: float) -> int:
    """The nearest width that a model may have."""
    if x < 0.75 * HEAD_WIDTH:
        return 16 if x < 24 else 32
    return HEAD_WIDTH * max(1, round(x / HEAD_WIDTH))


def rows_of(results: Sequence[tuple[Point, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The numbers that are shown, a row for each phase of each point."""
    found = []
    for point, result in results:
        numbers = summary(result)
        for phase in SHOWN:
            seconds = numbers[phase]["seconds"]
            values = (
                point.sweep.value,
                point.value,
                numbers["parameters"],
                phase,
                seconds["median"],
                seconds["least"],
                seconds["greatest"],
                numbers[phase]["tokens_per_second"],
                numbers["peak_above_idle_mb"],
            )
            found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV."""
    return sheets.csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])

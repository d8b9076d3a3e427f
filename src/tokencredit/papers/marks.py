"""What can be drawn in a figure of a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Shape(str, Enum):
    """How a mark is drawn."""

    line = "line"
    """The middle of several runs, with a band where there is a spread."""
    run = "run"
    """One run beside the others."""
    stopped = "stopped"
    """A run that ended early or failed, to its last point."""
    end = "end"
    """Where one run ended."""
    diverged = "diverged"
    """Where a run ended that the authors' code would have dropped, or that fell below its start."""
    point = "point"
    """The middle of several runs at one β."""
    dot = "dot"
    """One run, at one β or at its distance."""
    model = "model"
    """A model that is no run's: SFT, DPO."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something drawn in one panel of one source, for one method."""

    source: str
    panel: str
    method: str
    name: str
    """The method as the legend has it."""
    shape: Shape
    what: str
    """mean, median, or the run."""
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float]
    """Half the height of the band, for each x; empty without one."""
    n: int
    """Runs behind it."""


def as_text(name: str) -> str:
    """A name as matplotlib shows it: it takes dollars for formulas, and hides a leading stroke."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown

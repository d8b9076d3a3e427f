"""The picture of a preference model's evaluation: its margins, and whether to believe them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.reports.figures import COLOURS, _save
from tokencredit.statistics.pair_numbers import PairNumbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_pairs(numbers: PairNumbers, path: Path) -> None:
    """Write a histogram of margins beside a reliability diagram."""
    _save(path, _draw, numbers)


def _draw(figure: Figure, numbers: PairNumbers) -> None:
    left, right = figure.subplots(1, 2)
    edges = numbers.margin_edges
    width = edges[1] - edges[0]
    colours = [COLOURS[0] if edge + width / 2 > 0 else COLOURS[1] for edge in edges[:-1]]
    left.bar(edges[:-1], numbers.margin_counts, width=width, align="edge", color=colours)
    left.set_title(
        f"{100 * numbers.accuracy:.1f} % of {numbers.pairs} pairs in order\n"
        f"(95 %: {100 * numbers.accuracy_low:.1f} to {100 * numbers.accuracy_high:.1f} %)",
        fontsize=11,
    )
    left.set_xlabel("score of chosen − score of rejected")
    left.set_ylabel("pairs")
    right.plot([0.5, 1], [0.5, 1], color="#777777", linewidth=1, linestyle=(0, (4, 2)))
    known = [each for each in numbers.reliability if each.pairs]
    right.plot(
        [each.confidence for each in known],
        [each.accuracy for each in known],
        color=COLOURS[0],
        marker="o",
        linewidth=1.6,
    )
    right.set_xlim(0.5, 1)
    right.set_ylim(-0.02, 1.02)
    right.set_title(f"calibration error {numbers.calibration_error:.3f}", fontsize=11)
    right.set_xlabel("probability of the model's choice")
    right.set_ylabel("share in which it is preferred")

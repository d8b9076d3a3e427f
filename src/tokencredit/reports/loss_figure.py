"""The picture of what stages learnt: training loss against steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.reports.figures import COLOURS, _save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, Mapping[str, Sequence[float]]]


def draw_losses(curves: Curves, folder: Path) -> list[Path]:
    """Write figures/loss.png in a run's folder, one panel a stage, and return what was written.

    `curves` has `step` and `loss` of each stage, by name; without any there is no figure.
    """
    if not curves:
        return []
    path = folder / "figures" / "loss.png"
    _save(path, _draw, curves)
    return [path]


def _draw(figure: Figure, curves: Curves) -> None:
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        panel.plot(curve["step"], curve["loss"], color=COLOURS[0], linewidth=1.6)
        panel.set_title(name.replace("_", " "), fontsize=11)
        panel.set_xlabel("optimizer step")
    panels[0].set_ylabel("training loss")

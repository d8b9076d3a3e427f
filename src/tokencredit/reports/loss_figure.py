"""The picture of what stages learnt: training loss against steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.reports.figures import COLOURS, _save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, Mapping[str, Sequence[float]]]


def draw_losses(curves: Curves, path: Path) -> None:
    """Write one panel a stage; `curves` has `step` and `loss` of each, by name."""
    _save(path, _draw, curves)


def _draw(figure: Figure, curves: Curves) -> None:
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        panel.plot(curve["step"], curve["loss"], color=COLOURS[0], linewidth=1.6)
        panel.set_title(name.replace("_", " "), fontsize=11)
        panel.set_xlabel("optimizer step")
    panels[0].set_ylabel("training loss")

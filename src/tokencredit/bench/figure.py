"""The picture of growth: seconds and tokens a second of each phase against three sizes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokencredit.bench.growth import Sweep
from tokencredit.bench.report import SHOWN
from tokencredit.reports.figures import COLOURS
from tokencredit.store.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS: Final = ("o", "s", "^", "D")
"""Phases differ in shape too, for those who see no colours."""
TITLES: Final = {
    Sweep.rows: ("batch", "prompts", "value"),
    Sweep.new_tokens: ("response length", "response tokens, each", "value"),
    Sweep.width: ("model size", "parameters of the policy", "parameters"),
}
MEASURES: Final = {"seconds": "seconds", "tokens_per_second": "response tokens / s"}
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def draw(rows: Sequence[Mapping[str, Any]], title: str, folder: Path) -> list[Path]:
    """Write growth.png and growth.pdf to `folder` and return their paths."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    paths = [folder / "growth.png", folder / "growth.pdf"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 6.2), dpi=150, layout="constrained")
        _fill(figure, rows, title)
        # No date and no version, so that equal numbers give equal bytes.
        pairs = (
            (FigureCanvasAgg(figure), "png", {"Software": None}),
            (
                FigureCanvasPdf(figure),
                "pdf",
                {"Creator": None, "Producer": None, "CreationDate": None},
            ),
        )
        for path, (canvas, kind, nothing) in zip(paths, pairs, strict=True):
            buffer = io.BytesIO()
            canvas.print_figure(buffer, format=kind, metadata=nothing)
            write_bytes(path, buffer.getvalue())
    return paths


def _fill(figure: Figure, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    sweeps = [sweep for sweep in TITLES if any(row["sweep"] == sweep.value for row in rows)]
    grid = figure.subplots(len(MEASURES), len(sweeps), sharey="row", sharex="col", squeeze=False)
    for line, (measure, name) in zip(grid, MEASURES.items(), strict=True):
        for axes, sweep in zip(line, sweeps, strict=True):
            _panel(axes, [row for row in rows if row["sweep"] == sweep.value], sweep, measure)
        line[0].set_ylabel(name)
    for axes, sweep in zip(grid[0], sweeps, strict=True):
        axes.set_title(TITLES[sweep][0])
    for axes, sweep in zip(grid[-1], sweeps, strict=True):
        axes.set_xlabel(TITLES[sweep][1])
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(SHOWN))
    figure.suptitle(title, fontsize=9)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], sweep: Sweep, measure: str) -> None:
    for phase, colour, marker in zip(SHOWN, COLOURS, MARKERS, strict=False):
        own = sorted((row for row in rows if row["phase"] == phase), key=lambda row: row["value"])
        x = [row[TITLES[sweep][2]] for row in own]
        look: dict[str, Any] = {"color": colour, "marker": marker, "label": phase}
        axes.loglog(x, [row[measure] for row in own], **look)
        if measure == "seconds":
            low, high = ([row[end] for row in own] for end in ("least", "greatest"))
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    places = sorted({row[TITLES[sweep][2]] for row in rows})
    axes.set_xticks(places, [_short(place) for place in places])
    axes.set_xticks([], minor=True)


def _short(number: int) -> str:
    """12 345 678 as 12M; small numbers as they are."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)

"""Figures of papers: from the marks of figure_data, a picture as PNG and PDF, and their CSV."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokencredit.papers.drawings import fill
from tokencredit.papers.figure_data import FigureEntry, Mark, figure_marks
from tokencredit.papers.sources import Source
from tokencredit.reports.figures import STYLE
from tokencredit.store.files import write_bytes
from tokencredit.store.sheets import csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL: Final = (3.5, 2.9)
ALONE: Final = (7.6, 4.3)
NOTHING: Final[Any] = {"Creator": None, "Producer": None, "CreationDate": None}


def write_figure(
    entry: FigureEntry, sources: Sequence[Source], out: Path, stem: str, points: int | None = None
) -> tuple[list[Path], list[str]]:
    """Write `stem`.png, .pdf, and .csv to `out`; their paths, and what must be said beside it."""
    marks, notes = figure_marks(entry, sources, points)
    paths = [out / f"{stem}{suffix}" for suffix in (".png", ".pdf", ".csv")]
    contents = (*pictures(entry, marks), to_csv(marks).encode())
    for path, data in zip(paths, contents, strict=True):
        write_bytes(path, data)
    return paths, notes


def to_csv(marks: Sequence[Mark]) -> str:
    """Everything that is drawn, one line a point."""
    rows: list[Sequence[object]] = [
        ["source", "panel", "method", "what", "shape", "n", "x", "y", "spread"]
    ]
    for mark in marks:
        fixed = [mark.source, mark.panel, mark.name, mark.what, mark.shape.value, mark.n]
        spreads: Sequence[float | str] = mark.spread or [""] * len(mark.x)
        for x, y, spread in zip(mark.x, mark.y, spreads, strict=True):
            rows.append([*fixed, x, y, spread])
    return csv_text(rows)


def pictures(entry: FigureEntry, marks: Sequence[Mark]) -> tuple[bytes, bytes]:
    """The picture as PNG and as PDF; equal marks give equal bytes."""
    sources = list(dict.fromkeys(mark.source for mark in marks))
    titles = [p.title for p in entry.panels if any(m.panel == p.title for m in marks)]
    columns = min(len(titles), 4)
    single = len(sources) == len(titles) == 1
    size = ALONE if single else (max(7.6, PANEL[0] * columns), PANEL[1] * len(sources) + 0.8)
    return png_and_pdf(lambda figure: fill(figure, entry, marks, sources, titles), size)


def png_and_pdf(
    draw: Callable[[Figure], None], size: tuple[float, float], layout: str | None = "constrained"
) -> tuple[bytes, bytes]:
    """What `draw` puts into a figure of that size in inches, as PNG and as PDF without a date."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    buffers = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({**STYLE, "pdf.fonttype": 42}):
        figure = Figure(figsize=size, dpi=160, layout=layout)  # type: ignore[arg-type]
        FigureCanvasAgg(figure)
        draw(figure)
        FigureCanvasAgg(figure).print_figure(buffers[0], format="png", metadata={"Software": None})
        FigureCanvasPdf(figure).print_figure(buffers[1], format="pdf", metadata=NOTHING)
    return buffers[0].getvalue(), buffers[1].getvalue()

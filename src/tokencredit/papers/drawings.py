"""How the marks of a figure look: panels, lines, bands, points, legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from tokencredit.papers.figure_data import FigureEntry, Look, Mark, Shape, as_text
from tokencredit.reports.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES: Final = (
    *("solid", "solid", "solid", (0, (5, 1.5)), (0, (1.5, 1.2)), "solid", "solid"),
    (0, (5, 1.2, 1.2, 1.2)),
)
"""Methods differ in more than colour where there are many."""
MODELS: Final[dict[str, Any]] = {
    "sft": {"color": "#333333", "marker": "D", "markersize": 7, "linestyle": "none"},
    "dpo": {"color": "#333333", "marker": "*", "markersize": 12, "linestyle": "none"},
}
"""Models that are no run's."""


def fill(
    figure: Figure,
    entry: FigureEntry,
    marks: Sequence[Mark],
    sources: Sequence[str],
    titles: Sequence[str],
) -> None:
    """Draw a grid of panels, a row for each source, with one legend below."""
    same = len({panel.column for panel in entry.panels}) == 1
    share: Any = "row" if same else "none"
    grid = figure.subplots(len(sources), len(titles), squeeze=False, sharey=share)
    single = len(sources) == len(titles) == 1
    for line, source in zip(grid, sources, strict=True):
        for axes, title in zip(line, titles, strict=True):
            own = [mark for mark in marks if (mark.source, mark.panel) == (source, title)]
            _panel(axes, entry, own)
            heading = " · ".join(filter(None, (title, source if len(sources) > 1 else "")))
            axes.set_title(as_text(heading) if not single or entry.own else "", fontsize=11)
        for axes, title in list(zip(line, titles, strict=True))[: 1 if same else None]:
            column = next(panel.column for panel in entry.panels if panel.title == title)
            axes.set_ylabel(entry.height(column))
    for axes in grid[-1]:
        axes.set_xlabel(entry.across())
    figure.suptitle(_title(entry, marks), fontsize=11.5, x=0.01, ha="left")
    _legend(figure, entry, marks)


def _title(entry: FigureEntry, marks: Sequence[Mark]) -> str:
    counts = sorted({m.n for m in marks if m.shape in {Shape.line, Shape.point}})
    if not counts:
        return f"{entry.title} · no run has all the points"
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    noun = "run" if counts[-1] == 1 else "runs"
    return f"{entry.title} · {entry.spread(f'{runs} {noun}')}"


def _panel(axes: Axes, entry: FigureEntry, marks: Sequence[Mark]) -> None:
    order = list(entry.methods)
    for mark in [mark for mark in marks if mark.shape is Shape.model]:
        axes.plot(mark.x, mark.y, **MODELS[mark.method])
    marks = [mark for mark in marks if mark.shape is not Shape.model]
    names = [mark.name for mark in marks]
    for mark in sorted(marks, key=lambda mark: mark.shape in {Shape.line, Shape.point}):
        place = order.index(mark.method)
        several = len({m.name for m in marks if m.method == mark.method}) > 1
        number = sorted(set(names)).index(mark.name) if several else place
        DRAW[mark.shape](axes, mark, COLOURS[number % len(COLOURS)], DASHES[place % len(DASHES)])
    axes.margins(y=0.08)
    entry.frame(axes, marks)


def _line(axes: Axes, mark: Mark, colour: str, dashes: Any) -> None:
    style: Any = {"color": colour, "linewidth": 2.2, "linestyle": dashes}
    if mark.what == "median":  # a path that crosses itself
        style["linewidth"] = 1.7
    axes.plot(mark.x, mark.y, marker="o" if len(mark.x) == 1 else "", **style)
    if mark.spread and mark.n > 1:
        low = [y - s for y, s in zip(mark.y, mark.spread, strict=True)]
        high = [y + s for y, s in zip(mark.y, mark.spread, strict=True)]
        axes.fill_between(mark.x, low, high, color=colour, alpha=0.13, linewidth=0)


def _run(axes: Axes, mark: Mark, colour: str, _: Any) -> None:
    axes.plot(mark.x, mark.y, color=colour, linewidth=0.8, alpha=0.5)


def _stopped(axes: Axes, mark: Mark, colour: str, _: Any) -> None:
    axes.plot(mark.x, mark.y, color=colour, linewidth=0.9, alpha=0.8)
    axes.plot(mark.x[-1:], mark.y[-1:], "X", color=colour, markersize=7, clip_on=False)


def _end(axes: Axes, mark: Mark, colour: str, _: Any) -> None:
    axes.plot(mark.x, mark.y, "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)


def _diverged(axes: Axes, mark: Mark, colour: str, _: Any) -> None:
    axes.plot(mark.x, mark.y, "X", color=colour, markersize=8)


def _point(axes: Axes, mark: Mark, colour: str, _: Any) -> None:
    style: Any = {"color": colour, "markersize": 8, "capsize": 4, "elinewidth": 1.8}
    axes.errorbar(mark.x, mark.y, yerr=mark.spread if mark.n > 1 else None, fmt="o", **style)


def _dot(axes: Axes, mark: Mark, colour: str, _: Any) -> None:
    axes.plot(mark.x, mark.y, "o", color=colour, alpha=0.3, markersize=4.5, markeredgewidth=0)


DRAW: Final = {
    Shape.line: _line,
    Shape.run: _run,
    Shape.stopped: _stopped,
    Shape.end: _end,
    Shape.diverged: _diverged,
    Shape.point: _point,
    Shape.dot: _dot,
}


def _legend(figure: Figure, entry: FigureEntry, marks: Sequence[Mark]) -> None:
    """One entry a method, and what the other signs mean."""
    from matplotlib.lines import Line2D

    models = {mark.method: mark.name for mark in marks if mark.shape is Shape.model}
    marks = [mark for mark in marks if mark.shape is not Shape.model]
    looks = [
        *_method_looks(entry, marks),
        *((name, MODELS[method]) for method, name in models.items()),
        *_sign_looks(entry, {mark.shape for mark in marks}),
        *entry.signs(),
    ]
    handles = [Line2D([], [], label=label, **style) for label, style in looks]
    look: Any = {"fontsize": 9.5, "handlelength": 1.8, "columnspacing": 1.4}
    for columns in range(len(handles), 0, -1):  # as wide as the figure has room for
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, **look)
        if legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            return
        legend.remove()
    figure.legend(handles=handles, loc="outside lower center", ncols=1, **look)


def _method_looks(entry: FigureEntry, marks: Sequence[Mark]) -> Iterator[tuple[str, Look]]:
    """The label of each method, and how it is drawn; several settings of one differ in colour."""
    order, names = list(entry.methods), sorted({mark.name for mark in marks})
    for name, method in dict.fromkeys((mark.name, mark.method) for mark in marks):
        place = order.index(method)
        alone = len({mark.name for mark in marks if mark.method == method}) == 1
        number = place if alone else names.index(name)
        line = {"linestyle": DASHES[place % len(DASHES)], "linewidth": 2.2}
        style = entry.legend or line
        yield as_text(name), {**style, "color": COLOURS[number % len(COLOURS)]}


def _sign_looks(entry: FigureEntry, shapes: set[Shape]) -> Iterator[tuple[str, Look]]:
    """What the signs of single runs mean, and how they look."""
    sign: dict[str, Any] = {"color": "#555555", "linestyle": "none"}
    if shapes & {Shape.end, Shape.dot}:
        what = "one run" if Shape.dot in shapes else "end of a run"
        yield what, {"marker": "o", "alpha": 0.5, "markersize": 5, **sign}
    if shapes & {Shape.diverged, Shape.stopped}:
        yield entry.stopped, {"marker": "X", "markersize": 7, **sign}

"""Answers in colours, laid out on lines and written as a picture, a page, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tokencredit.console import visible
from tokencredit.papers.figures import png_and_pdf
from tokencredit.papers.token_maps import COLUMNS, Coloured, Token, TokenMap
from tokencredit.reports.samples import Row, coloured_html, css, painted
from tokencredit.store.files import write_bytes
from tokencredit.store.sheets import csv_text

POINTS: Final = 72
"""In an inch."""
WIDTH: Final = 100
"""Characters of a line of the picture."""
SIZE: Final = 8.5
"""Of its letters, in points."""
STEP: Final = 0.60205 * SIZE
"""From one letter of DejaVu Sans Mono to the next, in points."""
LINE: Final = 1.7 * SIZE
INK: Final = "#000000"
FAINT: Final = "#777777"
SHOWN: Final = str.maketrans({"\n": "↵", "\t": " "})
LEGEND: Final = (-1.0, -0.5, 0.0, 0.5, 1.0)


def views(answers: Sequence[Coloured]) -> list[Row]:
    """What a page shows of answers, as `sample_views` gives it of rows."""
    return [
        {
            "about": [f"row {one.row}", one.name],
            "prompt": visible(one.text.prompt),
            "tokens": [_view(one, *piece) for piece in one.pieces()],
        }
        for one in answers
    ]


def _view(one: Coloured, text: str, token: Token | None, marked: bool) -> dict[str, str]:
    style = "" if token is None else css(share(token.value, one.unit))
    line = "; text-decoration: underline" if marked else ""
    title = "" if token is None else f"token {token.position}: {token.value:+.4f}"
    return {"text": visible(text), "style": style + line, "title": title}


def share(value: float, unit: float) -> float:
    """The part of the full colour, from −1 to 1."""
    return max(-1.0, min(1.0, value / unit))


@dataclass(frozen=True, slots=True)
class Run:
    """Letters of one look on a line of the picture."""

    line: int
    column: int
    text: str
    ink: str
    ground: str | None = None
    underlined: bool = False


class Sheet:
    """Lines of runs, filled from left to right."""

    def __init__(self) -> None:
        """An empty one."""
        self.runs: list[Run] = []
        self.line, self.column = -1, 0

    def begin(self) -> None:
        """Go to a new line."""
        self.line, self.column = self.line + 1, 0

    def add(
        self, text: str, ink: str = INK, ground: str | None = None, *, underlined: bool = False
    ) -> None:
        """Put letters there; those that find no room go to further lines."""
        left = visible(text).translate(SHOWN)
        if self.column + len(left) > WIDTH and left.strip():
            self.begin()
            left = left.lstrip(" ")
        while left:
            now, left = left[: WIDTH - self.column], left[WIDTH - self.column :]
            self.runs.append(Run(self.line, self.column, now, ink, ground, underlined))
            self.column += len(now)
            if left:
                self.begin()


def laid_out(answers: Sequence[Coloured]) -> Sheet:
    """The answers as lines: a title, then prompt and answer; last the key of colours."""
    sheet = Sheet()
    for one in answers:
        sheet.begin()
        sheet.add(one.title, FAINT)
        sheet.begin()
        *words, last = one.text.prompt.split(" ")
        for word in (*(f"{word} " for word in words), last):
            sheet.add(word, FAINT)
        for text, token, marked in one.pieces():
            look = (INK, None) if token is None else painted(share(token.value, one.unit))
            sheet.add(text, *look, underlined=marked)
        sheet.begin()
    sheet.begin()
    for value in LEGEND:
        sheet.add(f" {value:+g} ".replace("-", "−"), *painted(value))
    return sheet


def drawn(answers: Sequence[Coloured]) -> tuple[bytes, bytes]:
    """The picture as PNG and as PDF; equal answers give equal bytes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    sheet, margin = laid_out(answers), 2 * STEP
    width, height = WIDTH * STEP + 2 * margin, (sheet.line + 1) * LINE + 2 * margin

    def fill(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        for run in sheet.runs:
            x, y = margin + run.column * STEP, margin + run.line * LINE
            long = len(run.text) * STEP
            if run.ground is not None:
                axes.add_patch(Rectangle((x, y), long, LINE, color=run.ground, linewidth=0))
            look: Any = {"family": "DejaVu Sans Mono", "size": SIZE, "parse_math": False}
            axes.text(x, y + 0.72 * LINE, _with_glyphs(run.text), color=run.ink, **look)
            if run.underlined:
                axes.plot([x, x + long], [y + 0.9 * LINE] * 2, color=INK, linewidth=1)

    return png_and_pdf(fill, (width / POINTS, height / POINTS), layout=None)


def _with_glyphs(text: str) -> str:
    """The text with a box for each letter that the font has not."""
    return "".join(letter if ord(letter) in _letters() else "□" for letter in text)


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans Mono")).get_charmap())


def write_token_map(
    entry: TokenMap, folder: Path, out: Path, stem: str
) -> tuple[list[Path], list[str]]:
    """Write `stem`.png, .pdf, .html, and .csv to `out`; their paths, and what must be said."""
    answers = entry.coloured(folder)
    png, pdf = drawn(answers)
    page = coloured_html(entry.title, views(answers), entry.what)
    contents = {"png": png, "pdf": pdf, "html": page.encode(), "csv": to_csv(entry, answers)}
    for suffix, data in contents.items():
        write_bytes(out / f"{stem}.{suffix}", data)
    return [out / f"{stem}.{suffix}" for suffix in contents], entry.remarks(folder)


def to_csv(entry: TokenMap, answers: Sequence[Coloured]) -> bytes:
    """The number of every token that is drawn, without texts."""
    lines: list[list[object]] = [[*COLUMNS, entry.column]]
    for one in answers:
        lines += [[one.row, one.name, t.position, *t.span, t.value] for t in one.tokens]
    return csv_text(lines).encode()

"""Figures of texts: every token in the colour of a number that a file says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final

from tokencredit.console import visible
from tokencredit.errors import UserError, require
from tokencredit.papers.entries import Entry
from tokencredit.papers.figures import png_and_pdf
from tokencredit.reports.samples import Row, coloured_html, css, painted
from tokencredit.store.files import csv_rows, reading, write_bytes
from tokencredit.store.jsonl import read_jsonl
from tokencredit.store.sheets import csv_text

Place = tuple[int, str]
"""Row of the data set, and which answer to its prompt."""
Span = tuple[int, int]
"""Characters of an answer, the second not included."""
COLUMNS: Final = ("row", "answer", "position", "start", "end")
"""Of the file of numbers, beside the number's own column."""
POINTS: Final = 72
"""In an inch."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token's place in its answer, and its number."""

    position: int
    span: Span
    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """What an answer says."""

    prompt: str
    text: str
    marked: Span | None = None
    """What is underlined."""


@dataclass(frozen=True, slots=True)
class Coloured:
    """An answer with the numbers of its tokens."""

    row: int
    name: str
    text: Text
    tokens: Sequence[Token]
    unit: float
    """The number that has the full colour."""

    def pieces(self) -> Iterator[tuple[str, Token | None, bool]]:
        """The answer in pieces: text, its token if it is one, whether it is underlined."""
        at, text = 0, self.text.text
        for token in self.tokens:
            start, end = token.span
            if at < start:
                yield text[at:start], None, False
            yield text[start:end], token, self._marked(token.span)
            at = end
        if at < len(text):
            yield text[at:], None, False

    def _marked(self, span: Span) -> bool:
        marked = self.text.marked
        return marked is not None and span[0] < marked[1] and marked[0] < span[1]

    @property
    def title(self) -> str:
        """Which answer it is."""
        return f"row {self.row} · {self.name}"


@dataclass(slots=True, kw_only=True)
class TokenMap(Entry):
    """Answers whose tokens are coloured by their numbers. It reads files and opens no model."""

    kind: ClassVar[str] = "token_map"
    command: ClassVar[str] = "figure"

    task: str
    """The experiment in whose folder the files lie."""
    numbers: str
    """The CSV there with a number for each token: row, answer, position, start, end, `column`."""
    texts: str
    """The JSON lines there with row, answer, prompt, text, and what is `marked`, if anything is."""
    column: str
    """The number's column."""
    what: str
    """What the number is."""
    relative: bool = False
    """Whether the full colour is each answer's largest magnitude; else it is 1."""
    fills: str
    """The command that writes the files."""

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def missing(self, folder: Path) -> str:
        """Which file is not in the folder, and what writes it; empty where both are there."""
        absent = [name for name in (self.numbers, self.texts) if not (folder / name).is_file()]
        return f"there is no {absent[0]}; `{self.fills}` writes it" if absent else ""

    def coloured(self, folder: Path) -> list[Coloured]:
        """The answers in the files of a folder: by row, then in the order of `methods`.

        Raises `UserError` where a file is missing, a line is not what it should be, or a token has
        no text.
        """
        if missing := self.missing(folder):
            raise UserError(f"--runs {folder}: {missing}")
        texts, found = self.said(folder), []
        for (row, answer), tokens in self.tokens(folder / self.numbers).items():
            text = texts.get((row, answer))
            if text is None or tokens[-1].span[1] > len(text.text):
                where, remedy = self.place(folder)
                raise UserError(
                    f"{where}: the text of row {row}, {answer}, is missing or shorter than "
                    f"{self.numbers} says; {remedy}"
                )
            most = max(abs(token.value) for token in tokens) or 1.0
            unit = most if self.relative else 1.0
            found.append(Coloured(row, self.methods[answer], text, tokens, unit))
        order = list(self.methods.values())
        return sorted(found, key=lambda one: (one.row, order.index(one.name)))

    def place(self, folder: Path) -> tuple[Path, str]:
        """Where the texts lie, and what to do where they are not those of the numbers."""
        return folder / self.texts, f"write both again with `{self.fills}`"

    def said(self, folder: Path) -> Mapping[Place, Text]:
        """What each answer says. A kind whose texts lie elsewhere reads them here."""
        path = folder / self.texts
        with reading(path):
            return dict(map(_text, read_jsonl(path)))

    def tokens(self, path: Path) -> dict[Place, list[Token]]:
        """The tokens of each answer in the file of numbers, in its order."""
        found: dict[Place, list[Token]] = {}
        for number, line in csv_rows(path):
            place, token = self._token(path, number, line)
            own = found.setdefault(place, [])
            if own and token.span[0] < own[-1].span[1]:
                raise UserError(f"{path}, line {number}: the token begins before the last one ends")
            own.append(token)
        require(bool(found), "--runs", str(path), "holds no tokens")
        return found

    def _token(self, path: Path, number: int, line: Mapping[str, str]) -> tuple[Place, Token]:
        try:
            row, position, start, end = (int(line[name]) for name in COLUMNS if name != "answer")
            answer, value = line["answer"], float(line[self.column])
            if answer not in self.methods:
                raise ValueError(f"answer = {answer!r}: must be one of {', '.join(self.methods)}")
            if not (0 <= start < end and math.isfinite(value)):
                raise ValueError(f"characters {start} to {end}, number {value}: is no token")
        except (KeyError, TypeError, ValueError) as error:
            columns = ", ".join((*COLUMNS, self.column))
            raise UserError(f"{path}, line {number}: {error}; the columns are {columns}") from None
        return (row, answer), Token(position, (start, end), value)

    def remarks(self) -> list[str]:
        """What the colours mean."""
        full = "the largest magnitude of each answer" if self.relative else "1"
        colours = f"blue above 0, vermilion below, in full at {full}"
        return [f"each token has the colour of the {self.what}: {colours}"]


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


def _text(line: Row) -> tuple[Place, Text]:
    marked = line.get("marked")
    span = None if marked is None else (int(marked[0]), int(marked[1]))
    text = Text(str(line["prompt"]), str(line["text"]), span)
    return (int(line["row"]), str(line["answer"])), text


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
    return [out / f"{stem}.{suffix}" for suffix in contents], entry.remarks()


def to_csv(entry: TokenMap, answers: Sequence[Coloured]) -> bytes:
    """The number of every token that is drawn, without texts."""
    lines: list[list[object]] = [[*COLUMNS, entry.column]]
    for one in answers:
        lines += [[one.row, one.name, t.position, *t.span, t.value] for t in one.tokens]
    return csv_text(lines).encode()

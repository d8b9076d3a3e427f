"""Figures of texts: every token in the colour of a number that a file says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.papers.entries import Entry
from tokencredit.reports.samples import Row
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.store.files import csv_rows, read_json, reading
from tokencredit.store.jsonl import read_jsonl

Place = tuple[int, str]
"""Row of the data set, and which answer to its prompt."""
Span = tuple[int, int]
"""Characters of an answer, the second not included."""
COLUMNS: Final = ("row", "answer", "position", "start", "end")
"""Of the file of numbers, beside the number's own column."""


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
    measured: str | None = None
    """A JSON file there: by how much the number of what is `marked` differs from what stood there,
    by answer of `methods`, as a mean with its interval."""
    fills: str
    """The command that writes the files."""

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def missing(self, folder: Path) -> str:
        """Which file is not in the folder, and what writes it; empty where all are there."""
        names = [self.numbers, self.texts, *filter(None, [self.measured])]
        absent = [name for name in names if not (folder / name).is_file()]
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
            if text is None or not self.fits(text.text, tokens[-1].span[1]):
                where, remedy = self.place(folder)
                raise UserError(
                    f"{where}: the text of row {row}, {answer}, is missing or not as long as "
                    f"{self.numbers} says; {remedy}"
                )
            most = max(abs(token.value) for token in tokens) or 1.0
            unit = most if self.relative else 1.0
            found.append(Coloured(row, self.methods[answer], text, tokens, unit))
        order = list(self.methods.values())
        return sorted(found, key=lambda one: (one.row, order.index(one.name)))

    def fits(self, text: str, end: int) -> bool:
        """Whether numbers whose last token ends at that character can be those of `text`."""
        return end <= len(text)

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

    def remarks(self, folder: Path) -> list[str]:
        """What the colours mean, and what was `measured`."""
        full = "the largest magnitude of each answer" if self.relative else "1"
        colours = f"blue above 0, vermilion below, in full at {full}"
        said = [f"each token has the colour of the {self.what}: {colours}"]
        if self.measured is None:
            return said
        with reading(path := folder / self.measured):
            found = [
                f"{self.methods[name]} {rounded(x['mean'], signed=True)} "
                f"{interval(x['low'], x['high'], signed=True)} (n = {x['n']})"
                for name, x in read_json(path)["faults"].items()
            ]
        what = f"the {self.what} of what is underlined, less that of what stood there"
        return [*said, f"{what}, with 95 % intervals over answers: {'; '.join(found)}"]


def _text(line: Row) -> tuple[Place, Text]:
    marked = line.get("marked")
    span = None if marked is None else (int(marked[0]), int(marked[1]))
    text = Text(str(line["prompt"]), str(line["text"]), span)
    return (int(line["row"]), str(line["answer"])), text

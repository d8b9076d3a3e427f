"""CSV files, whose cells a spreadsheet shows and does not compute."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

FORMULA: Final = re.compile(r"[=+\-@\t\n＝＋－＠]")
"""How a cell begins that spreadsheets take for a formula."""
NUMBER: Final = re.compile(
    r"[+-]?(?:(?:[\d\s.,±\[\]%–]|(?<=[\[\s])[+-])*(?:e[+-]?\d+)?|inf|nan)", re.IGNORECASE
)
"""Numbers, with what stands beside them in tables: an error, an interval."""
QUOTE: Final = "'"
"""Before such a text: spreadsheets then show it as it is."""


def csv_text(rows: Iterable[Sequence[object]], *, strict: bool = False) -> str:
    """Rows as CSV. Texts that begin like formulas, and are no numbers, get an apostrophe before;
    carriage returns, which would end the row where they are not quoted, become line ends.

    `strict`: texts that are numbers, too, of which a spreadsheet would work out some (`+1 -2`).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value, strict=strict) for value in row] for row in rows)
    return text.getvalue()


def as_written(cell: str) -> str:
    """The text that `csv_text` was given for a cell."""
    return cell[1:] if cell[:1] == QUOTE and FORMULA.match(cell, 1) else cell


def _cell(value: object, *, strict: bool) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\n")
    computed = FORMULA.match(text) and (strict or not NUMBER.fullmatch(text))
    return QUOTE + text if computed else text

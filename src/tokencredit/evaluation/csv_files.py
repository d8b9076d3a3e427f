"""CSV files that users write: a header, rows, and perhaps remarks above them."""

from __future__ import annotations

import csv
from itertools import dropwhile
from pathlib import Path

from tokencredit.store.files import read_text, reading


def csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Each row by name of its column, with the number of its line.

    Lines above the header that begin with # are remarks, such as the name of the file.
    """
    lines = read_text(path).splitlines(keepends=True)
    kept = list(dropwhile(lambda line: line.startswith("#"), lines))
    above = len(lines) - len(kept)
    with reading(path):
        rows = csv.DictReader(kept)
        return [(above + rows.line_num, dict(row)) for row in rows]

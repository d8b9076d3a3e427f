"""HTML pages that need no other file and run no script, and tables of a terminal."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def render(template: str, **values: Any) -> str:
    """Return the page of `templates/`, in which every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tokencredit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def embedded(pictures: Sequence[Path]) -> list[dict[str, str]]:
    """The pictures of a page that needs no other file: name and content in Base64."""
    return [
        {"name": path.stem, "data": base64.b64encode(path.read_bytes()).decode()}
        for path in pictures
    ]


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` with their columns aligned; a row of one cell is a line of its own."""
    table = [row for row in rows if len(row) > 1]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))] if table else []
    lines = []
    for row in rows:
        cells = row if len(row) == 1 else [c.ljust(w) for c, w in zip(row, widths, strict=True)]
        lines.append(("  " + "   ".join(cells)).rstrip())
    return "\n".join(lines)

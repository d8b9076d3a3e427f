"""Files that a page of docs/ shows whole: a block whose first line is a comment with its name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown_file(page: str, name: str) -> str:
    """The text of the file `name` on a page of docs/, without the line that names it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"```\w+\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)
    return str(found)

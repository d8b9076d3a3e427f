"""The names of all tests, read from their files."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def names_of_tests() -> dict[str, str]:
    """Every test function, and the file it stands in."""
    return {
        node.name: path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.rglob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }

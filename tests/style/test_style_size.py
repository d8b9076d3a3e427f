"""Limits that keep every file readable in one pass. They are tests, so nobody has to argue."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 350
FUNCTION_LINES = 60


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_there_is_something_to_measure() -> None:
    assert len(files("src")) > 40
    assert len(files("tests")) > 20


def test_function_lines_are_counted() -> None:
    assert list(functions("def f():\n    a = 1\n\n    return a\n")) == [("f", 4)]


@pytest.mark.parametrize(
    "path", files("src", "tests"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= FILE_LINES
    assert [(name, n) for name, n in functions(source) if n > FUNCTION_LINES] == []

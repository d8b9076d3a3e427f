"""Small packages made up for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from architecture.imports import Package, read_package


def write(folder: Path, files: Mapping[str, str]) -> Package:
    """A package of these files, below `folder`/house."""
    for name, source in files.items():
        path = folder / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return read_package(folder / "house")

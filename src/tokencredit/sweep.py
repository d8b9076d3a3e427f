"""Cells of a sweep: each runs like a single run; one that fails does not stop the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from tokencredit.atomic import naming, reading
from tokencredit.tracking.jsonl import read_jsonl

CELLS = "cells.jsonl"
FOLDERS: list[Path] = []
"""The folder of the sweep that this process has started."""


class Remember(Callback):
    """Notes where Hydra puts the sweep, in the process that starts it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra once, before the first cell."""
        FOLDERS.append(Path(config.hydra.sweep.dir))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the sweep, and what became of it."""

    number: int
    overrides: list[str]
    state: str
    """done, done before, or failed."""
    folder: str
    seconds: float
    error: str = ""


def record(sweep: Path, cell: Cell) -> None:
    """Append a finished cell to the sweep's list; safe for several processes at once."""
    line = (json.dumps(asdict(cell), ensure_ascii=False) + "\n").encode()
    sweep.mkdir(parents=True, exist_ok=True)
    with naming(sweep / CELLS):
        descriptor = os.open(sweep / CELLS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def forget(sweep: Path) -> None:
    """Remove the folder of a sweep in which no cell was started, and parents that are empty."""
    if (sweep / CELLS).exists() or not sweep.is_dir():
        return
    (sweep / "multirun.yaml").unlink(missing_ok=True)
    for folder in (sweep, sweep.parent, sweep.parent.parent):
        if any(folder.iterdir()):
            return
        folder.rmdir()


def cells(sweep: Path) -> list[Cell]:
    """Every cell recorded so far, by number."""
    path = sweep / CELLS
    if not path.is_file():
        return []
    with reading(path):
        return sorted((Cell(**row) for row in read_jsonl(path)), key=lambda cell: cell.number)


def print_table(found: Sequence[Cell], started: float) -> int:
    """Print the closing table; the number of failed cells."""
    shared = set.intersection(*(set(c.overrides) for c in found)) if len(found) > 1 else set[str]()
    table = Table("cell", "overrides", "state", "seconds", "folder", title="sweep")
    for cell in found:
        style = "red" if cell.state == "failed" else None
        place = cell.error or cell.folder
        own = " ".join(override for override in cell.overrides if override not in shared)
        seconds = f"{cell.seconds:.0f}"
        table.add_row(str(cell.number), own, cell.state, seconds, place, style=style)
    width = None if Console().is_terminal else 160
    Console(width=width).print(table)
    failed = sum(cell.state == "failed" for cell in found)
    print(f"{len(found)} cells, {failed} failed, {time.monotonic() - started:.0f} s")
    return failed

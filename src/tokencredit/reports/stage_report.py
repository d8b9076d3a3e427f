"""What a run without RL came to: the summary on the terminal, and report.html."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tokencredit.reports.loss_figure import draw_losses
from tokencredit.reports.samples import columns, embedded, render
from tokencredit.reports.stages import curves_of, left_out, stage_table
from tokencredit.store.files import read_json, reading, write_bytes
from tokencredit.store.run_folder import REPORT, existing

RECORD: Final = "stage.json"
"""What the folder of such a run holds: where its model lies, and the figures of its stages."""

_PLACES: Final = {REPORT: "this summary with loss curves", "wandb": "the W&B copy"}


def is_stage_folder(folder: Path) -> bool:
    """Whether `folder` is that of a run without RL."""
    return (folder / RECORD).is_file()


def stage_summary(folder: Path) -> str:
    """Return what such a run came to: its headline, its tables, and where its report lies."""
    with reading(folder / RECORD):
        tables = [f"{title}\n{columns(rows)}" for title, rows in sections(_record(folder))]
    places = existing(folder, [REPORT, "wandb"])
    here = [[os.path.relpath(path), _PLACES[path.name]] for path in places]
    lies = [f"where things lie\n{columns(here)}"] if here else []
    return "\n\n".join([stage_headline(folder), *tables, *lies]) + "\n"


def sections(record: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Return what stages learnt, and what was left out of the data, of a record that has
    `figures`, `dropped`, and `filtered` (a manifest of an RL run, for one)."""
    figures = record.get("figures") or {}
    tables = [
        ("stages", stage_table(figures)),
        (
            "rows left out, cut, or noted",
            left_out(
                record.get("dropped") or {},
                record.get("filtered") or {},
                figures,
                record.get("prompts_dropped"),
            ),
        ),
    ]
    return [(title, table) for title, table in tables if table]


def stage_headline(folder: Path) -> str:
    """Return the run in a line: what it made of which model and data."""
    record = _record(folder)
    with reading(folder / RECORD):
        names = "{model} on {dataset}, {hardware}".format_map(record["names"])
        return f"{record['stage']}: {names}, stage seed {record['seeds']['stage_seed']}"


def write_stage_report(folder: Path) -> Path:
    """Write report.html of such a run, with its loss curves, and return its path."""
    record = _record(folder)
    with reading(folder / RECORD):
        drawn = draw_losses(curves_of(record["figures"]), folder)
        page = render(
            "stage.html",
            title=f"{record['stage']} · {record['key']}",
            lead=stage_headline(folder),
            figures=embedded(drawn),
            sections=sections(record),
            model=record["model"],
        )
    write_bytes(folder / REPORT, page.encode())
    return folder / REPORT


def _record(folder: Path) -> dict[str, Any]:
    return read_json(folder / RECORD, figures=dict)

"""What stages learnt: tables of any run, and the summary and report.html of one without RL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tokencredit.reports.figures import draw_losses
from tokencredit.reports.held_out import measured
from tokencredit.reports.samples import columns, embedded, render
from tokencredit.store.files import read_json, reading, write_bytes
from tokencredit.store.run_folder import REPORT, RESULTS, RunFolder, existing

RECORD: Final = "stage.json"
"""What the folder of such a run holds: where its model lies, and the figures of its stages."""

_PLACES: Final = {
    REPORT: "this summary with loss curves",
    RESULTS: "results",
    "wandb": "the W&B copy",
}
Figures = Mapping[str, Mapping[str, Any]]
"""The figures of stages, by role."""
Table = list[list[str]]
COUNTED: Final = {
    "noted": "training records",
    "pairs_noted": "training pairs",
    "held_out_noted": "held-out pairs",
    "effects_noted": "held-out pairs without advantages of tokens",
}
"""Figures that count records by reason."""
ENDS: Final = 10
"""Parts of a curve of which the first and the last are shown."""


def is_stage_folder(folder: Path) -> bool:
    """Whether `folder` is that of a run without RL."""
    return (folder / RECORD).is_file()


def stage_summary(folder: Path) -> str:
    """Return what such a run came to: its headline, its tables, and where its report lies."""
    with reading(folder / RECORD):
        tables = [f"{title}\n{columns(rows)}" for title, rows in _sections(folder)]
    places = existing(folder, [REPORT, RESULTS, "wandb"])
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
            sections=_sections(folder),
            model=record["model"],
        )
    write_bytes(folder / REPORT, page.encode())
    return folder / REPORT


def _sections(folder: Path) -> list[tuple[str, Table]]:
    """What its stages learnt, and what its model was measured to be, where it was."""
    return [*measured(RunFolder(folder)), *sections(_record(folder))]


def _record(folder: Path) -> dict[str, Any]:
    return read_json(folder / RECORD, figures=dict)


def stage_table(figures: Figures) -> Table:
    """Return steps, training loss, and held-out numbers of each stage that has any, header first.

    The loss is the mean over the first and over the last tenth of the steps.
    """
    head = ["", "steps", "training loss", "on held-out records", "records"]
    rows = [
        [
            role.replace("_", " "),
            str(numbers.get("steps", "-")),
            _course(numbers),
            _held_out(numbers) or "-",
            str(numbers.get("held_out", "-")),
        ]
        for role, numbers in figures.items()
        if "curve" in numbers or _held_out(numbers)
    ]
    return [head, *rows] if rows else []


def left_out(
    dropped: Mapping[str, int], filtered: Mapping[str, int], figures: Figures, prompts: Any = None
) -> Table:
    """Return how many rows were left out, cut, or noted, where and for what reason, header first.

    `dropped` are unusable rows of the data, `filtered` those that a setting leaves out, `prompts`
    records that became no prompt of the RL stage.
    """
    found = [["dataset", reason, str(count)] for reason, count in dropped.items()]
    found += [["dataset", f"left out by {key}", str(count)] for key, count in filtered.items()]
    found += [row for role, numbers in figures.items() for row in _noted(role, numbers)]
    found += [["rl prompts", reason, str(count)] for reason, count in (prompts or {}).items()]
    rows = [row for row in found if row[2] != "0"]
    return [["where", "reason", "rows"], *rows] if rows else []


def curves_of(figures: Figures) -> dict[str, Mapping[str, list[float]]]:
    """Return the loss curves that the stages have: `step` and `loss`, by role."""
    return {role: numbers["curve"] for role, numbers in figures.items() if "curve" in numbers}


def _noted(role: str, numbers: Mapping[str, Any]) -> Iterator[list[str]]:
    name = role.replace("_", " ")
    for key, what in COUNTED.items():
        for reason, count in (numbers.get(key) or {}).items():
            yield [f"{name}, {what}", str(reason), str(count)]
    if numbers.get("cut"):
        yield [f"{name}, training records", "answer cut at max_length", str(numbers["cut"])]


def _course(numbers: Mapping[str, Any]) -> str:
    losses = numbers.get("curve", {}).get("loss", [])
    if not losses:
        return f"{numbers['loss']:.3f}" if "loss" in numbers else "-"
    count = max(1, len(losses) // ENDS)
    first, last = sum(losses[:count]) / count, sum(losses[-count:]) / count
    return f"{first:.3f} → {last:.3f}" if len(losses) > 1 else f"{last:.3f}"


def _held_out(numbers: Mapping[str, Any]) -> str:
    parts = []
    if "held_out_loss" in numbers:
        parts.append(f"loss {numbers['held_out_loss']:.3f}")
    if "accuracy" in numbers:
        parts.append(f"accuracy {numbers['accuracy']:.3f}{_interval(numbers, 'accuracy')}")
    margin = numbers.get("margin", numbers.get("margin_mean"))
    if margin is not None:
        parts.append(f"margin {margin:+.3f}{_interval(numbers, 'margin')}")
    return ", ".join(parts)


def _interval(numbers: Mapping[str, Any], name: str) -> str:
    low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"

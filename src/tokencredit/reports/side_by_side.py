"""The same held-out prompts continued by the SFT model and by the policy, side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokencredit.console import visible
from tokencredit.statistics.rounding import rounded
from tokencredit.store.files import reading
from tokencredit.store.run_folder import EVALUATION, RunFolder

Row = Mapping[str, Any]

MODELS: Final = {"sft": "SFT", "policy": "policy"}
OPINIONS: Final = {"score": "score", "oracle": "oracle"}
SHOWN: Final = 3
"""Prompts, the first of the evaluation."""
LONGEST: Final = 600
"""Characters of a text on a terminal."""
WIDTH: Final = 120
"""Columns of what is printed into a file or a pipe."""


def print_continuations(run_dir: str | Path) -> None:
    """Print the table of a run to standard output; nothing before the run has been evaluated."""
    rows = continuations(RunFolder.logged(run_dir))
    if rows:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(continuations_table(rows))


def continuations(run: RunFolder) -> list[dict[str, Any]]:
    """Return the first prompts of the evaluation, of each the text and what each model said.

    {"prompt": str, "sft": str, "policy": str, "sft/opinion": str, "policy/opinion": str}; an
    opinion is the score that was paid for and the oracle's rating, as far as they are known.
    Characters that would act on a terminal or page are escaped.
    """
    with reading(run.path / EVALUATION):
        return [
            {
                "prompt": visible(row["prompt"]),
                **{model: visible(row[f"{model}/response"]) for model in MODELS},
                **{f"{model}/opinion": _opinion(row, model) for model in MODELS},
            }
            for row in run.evaluation[:SHOWN]
        ]


def continuations_table(rows: Sequence[Row]) -> Table:
    """Return a terminal table, one row a prompt; of long texts it has the part next to the seam."""
    table = Table(show_lines=True, expand=True, title="held-out prompts", title_justify="left")
    for name in ("prompt", *MODELS.values()):
        table.add_column(name, ratio=1, overflow="fold")
    for row in rows:
        # Text, unlike a string, is not read as rich's markup.
        cells = [Text(_ending(row["prompt"]), style="dim")]
        for model in MODELS:
            said = Text(_beginning(row[model]))
            cells.append(said.append(f"\n{row[f'{model}/opinion']}", style="dim"))
        table.add_row(*cells)
    return table


def _opinion(row: Row, model: str) -> str:
    """What is thought of a response, e.g. `score +1.500, oracle -0.250`."""
    known = {name: row.get(f"{model}/{key}") for key, name in OPINIONS.items()}
    said = {name: rounded(x, signed=True) for name, x in known.items() if x is not None}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _ending(text: str) -> str:
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"


def _beginning(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"

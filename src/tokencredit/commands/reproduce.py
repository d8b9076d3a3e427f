"""`tokencredit reproduce`: does a recorded run come out again?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.options import Plugins
from tokencredit.config import load_plugins
from tokencredit.console import say, show
from tokencredit.errors import UserError
from tokencredit.reproduction.log import hours_of, reproduce_pages
from tokencredit.reproduction.rerun import Outcome, reproduce

DIFFERENT = 1
"""Exit code where the new run is not the recorded one."""
EXPERIMENTS = Path("experiments")


def reproduce_run(
    what: Annotated[
        Path | None,
        typer.Argument(metavar="RUN|CELL", help="A run folder, or a committed cell's CSV or JSON."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Run this many first steps; default: all.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Where stages are looked up and kept; default: $TOKENCREDIT_STORE, else a folder "
            "that is removed at the end."
        ),
    ] = None,
    pages: Annotated[
        bool,
        typer.Option(help="One cell of each page of experiments/; writes REPRODUCED.md."),
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Run a recorded run, or a committed cell, again: equal, or the first difference.

    On the same processor with the same versions and threads all numbers must be equal. Elsewhere
    keys and prompts must be, mean scores to about four standard errors of the difference, and the
    oracle's rating at the end to a 95 % interval, of prompts or of seeds. Exit code 1: something
    differs.
    """
    load_plugins(plugin or [])
    named = os.environ.get("TOKENCREDIT_STORE")
    place = store or (Path(named) if named else None)
    if pages == (what is not None):
        raise UserError("reproduce: name a run folder or a cell, or give --pages, and not both")
    if what is None:
        written, equal = reproduce_pages(EXPERIMENTS, steps, place)
        show(f"wrote {written}")
        raise typer.Exit(0 if equal else DIFFERENT)
    say(f"{what}: {hours_of([what], steps)}")
    outcome = reproduce(what, steps, place)
    show(report(outcome))
    raise typer.Exit(0 if outcome.difference is None else DIFFERENT)


def report(outcome: Outcome) -> str:
    """A line for each check, then the first difference with its likely cause."""
    lines = [check.line() for check in outcome.checks]
    if outcome.difference is not None:
        lines.append(f"first difference: {outcome.difference.what}, {outcome.difference.text}")
        lines.append(f"likely cause: {outcome.cause}")
    return "\n".join(lines)

"""`tokencredit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.options import Plugins
from tokencredit.config import load_plugins
from tokencredit.console import show
from tokencredit.errors import UserError
from tokencredit.reports.samples import print_continuations
from tokencredit.reports.stage_report import (
    is_stage_folder,
    stage_summary,
    write_stage_report,
)
from tokencredit.reports.summary import closing_summary, write_report
from tokencredit.store.run_folder import METRICS
from tokencredit.user_code.trust import check_folder


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")], plugin: Plugins = None
) -> None:
    """Print the summary of a run and draw its figures and report.html again."""
    if is_stage_folder(run):
        write_stage_report(run)
        show(stage_summary(run))
        return
    if not (run / METRICS).is_file():
        raise UserError(f"{run}: is no run folder (it has no {METRICS})")
    load_plugins(plugin or [])
    check_folder(run)
    write_report(run)
    show(closing_summary(run))
    print_continuations(run)

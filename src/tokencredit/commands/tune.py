"""`tokencredit tune`: every method of an experiment gets its numbers by the same search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.options import Components
from tokencredit.config import load_plugins, register
from tokencredit.console import show
from tokencredit.papers.pilot_tables import pilots_table
from tokencredit.sweeps.pilot_runs import tune as run_pilots
from tokencredit.sweeps.tuning import read_comparison
from tokencredit.sweeps.tuning_plan import plan_text


def tune(
    overrides: Annotated[
        list[str], typer.Argument(help="experiment=NAME, its scale=…, and KEY=VALUE for all runs.")
    ],
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say the budget of each method, and the hours.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Pilot runs at a time.")] = 1,
    config_dir: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="More YAML groups, laid out like conf/; the first such folder gets the choices. "
            "Repeatable.",
        ),
    ] = None,
    plugin: Components = None,
) -> None:
    """Try each method's grid with pilot seeds, and choose its numbers by the oracle's rating.

    The methods are those of the experiment's sweep, and all get the same number of pilot runs. Rows
    go to experiments/NAME/tuning/SCALE.csv, choices to conf/tuned/NAME_SCALE/METHOD.yaml, which the
    experiment reads. The same command goes on where it stopped.
    """
    register()
    load_plugins(plugin or [])
    comparison = read_comparison(overrides, config_dir or [], plugin or [])
    if plan:
        show(plan_text(comparison))
        return
    rows = run_pilots(comparison, jobs)
    show(pilots_table(rows, comparison.terms))

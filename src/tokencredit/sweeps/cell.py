"""One cell of a sweep: run or planned, recorded, and told to the sweeper as a number."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokencredit.composing.arguments import Request
from tokencredit.composing.explain import explain
from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import require
from tokencredit.pipeline.cells import STATE, committed_cell, execute_and_keep
from tokencredit.pipeline.pipeline import plan
from tokencredit.sweeps import objective, sweep
from tokencredit.sweeps.table import shown


def run_cell(
    settings: Any, composed: Any, request: Request, load: Callable[[Any], Config]
) -> objective.Value:
    """Do a cell, and return its objective. Whatever goes wrong in it is recorded, and the sweep
    goes on.

    `settings` are Hydra's own for the cell; `load` makes a configuration of what it composed.
    """
    folder, began = Path(settings.sweep.dir), time.monotonic()
    overrides = list(settings.overrides.task)
    cell = partial(sweep.Cell, number=int(settings.job.num), overrides=overrides)
    wanted = objective.listed(composed.sweep.objective)
    try:
        sweep.check_sweeper(settings, wanted)
        config = load(composed)
        require(config.run_dir is None, "run_dir", config.run_dir, "cannot be set in a sweep")
        if request.plan_only:
            kept = committed_cell(config)
            request.plans += plan(config) if kept is None else [kept]
            return objective.of_planned(wanted)
        state, place = _done(config, overrides)
        found = objective.measures(Path(place))
        worth = objective.value(wanted, found)
    except (Exception, SystemExit) as problem:
        known = explain(problem)
        if known is None:
            raise
        if isinstance(known, objective.Unknown) and not sweep.begun(folder):
            raise sweep.Refused(known) from None
        request.mistakes += 1
        say(f"cell {settings.job.num} ({' '.join(overrides)}) failed: {known}")
        seconds = time.monotonic() - began
        sweep.record(folder, cell(state=sweep.FAILED, seconds=seconds, error=str(known)))
        if request.counts_failures():  # Optuna counts exceptions
            raise known from None
        return objective.of_failed(wanted, sweep.adaptive(settings))
    done = cell(state=state, folder=place, measures=shown(wanted, found))
    sweep.record(folder, replace(done, seconds=time.monotonic() - began))
    return worth


def _done(config: Config, overrides: list[str]) -> tuple[str, str]:
    """State and place of a cell, which is run unless that is done already."""
    kept = committed_cell(config)
    if kept is not None:
        return STATE, kept.state.removeprefix(f"{STATE}: ")
    outcome = execute_and_keep(config, overrides)
    return "done" if outcome.seconds else "done before", str(outcome.last.folder)

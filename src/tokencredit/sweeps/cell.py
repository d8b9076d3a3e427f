"""A run, alone or a cell of a sweep: done or planned, and what is said of it.

Read once the configuration is known to be right: it imports everything that a run needs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tokencredit.composing.arguments import Request
from tokencredit.composing.chosen import Clash
from tokencredit.composing.explain import explain
from tokencredit.config import Config
from tokencredit.console import USER_ERROR, say
from tokencredit.errors import require
from tokencredit.machine import stopping
from tokencredit.machine.later import read_now
from tokencredit.machine.stopping import STOPPED, Stopped
from tokencredit.pipeline.cells import STATE, committed_cell, execute_and_keep
from tokencredit.pipeline.pipeline import plan, spent
from tokencredit.reports.samples import print_continuations, render_samples
from tokencredit.reports.stage_report import stage_summary
from tokencredit.reports.summary import closing_summary
from tokencredit.stages.evaluation import is_evaluation
from tokencredit.stages.supervised import report_folder, trained_by
from tokencredit.store.artifacts import Plan
from tokencredit.store.run_folder import RunFolder
from tokencredit.sweeps import objective, sweep, table
from tokencredit.sweeps.table import shown

SHOWN = 4
"""Samples printed after a run."""


def run_cell(
    settings: Any,
    composed: Any,
    request: Request,
    load: Callable[[Any], Config],
    *,
    launched: bool = False,
) -> objective.Value:
    """Do a cell, and return its objective. Whatever goes wrong in it is recorded, and the sweep
    goes on, unless it was asked to stop.

    `settings` are Hydra's own for the cell; `load` makes a configuration of what it composed;
    `launched`: in a process of a launcher's, which may end only once the cells beside it are saved.
    """
    folder, began = Path(settings.sweep.dir), time.monotonic()
    sweep.join(folder)
    overrides = list(settings.overrides.task)
    cell = partial(sweep.Cell, number=int(settings.job.num), overrides=overrides)
    wanted = objective.listed(composed.sweep.objective)
    try:
        if stopping.request().asked:
            raise Stopped
        sweep.check_sweeper(settings, wanted)
        config = load(composed)
        require(config.run_dir is None, "run_dir", config.run_dir, "cannot be set in a sweep")
        config.run.group = sweep.group(folder, config.run.experiment)
        if request.plan_only:
            kept = committed_cell(config)
            request.plans += plan(config) if kept is None else [kept]
            return objective.of_planned(wanted)
        state, place = _done(config, overrides)
        found = objective.measures(Path(place))
        worth = objective.value(wanted, found)
    except Stopped as stopped:
        sweep.stop(folder)
        if stopped.args:  # else it was not begun
            _record(folder, cell(state=sweep.STOPPED, error=str(stopped)), began)
        if launched and not sweep.adaptive(settings):
            return objective.of_failed(wanted, "")
        raise
    except (Exception, SystemExit) as problem:
        known = explain(problem)
        if known is None:
            raise
        if isinstance(known, objective.Unknown | Clash) and not sweep.begun(folder):
            raise sweep.Refused(known) from None
        request.mistakes += 1
        _record(folder, cell(state=sweep.FAILED, error=str(known)), began)
        if request.counts_failures():  # Optuna counts exceptions
            raise known from None
        return objective.of_failed(wanted, sweep.adaptive(settings))
    _record(folder, cell(state=state, folder=place, measures=shown(wanted, found)), began)
    return worth


def _record(folder: Path, cell: sweep.Cell, began: float) -> None:
    """Add a cell to the sweep's list, and say of one that has not ended well why."""
    if cell.error:
        say(f"cell {cell.number} ({' '.join(cell.overrides)}) {cell.state}: {cell.error}")
    sweep.record(folder, replace(cell, seconds=time.monotonic() - began))


def _done(config: Config, overrides: list[str]) -> tuple[str, str]:
    """State and place of a cell, which is run unless that is done already."""
    kept = committed_cell(config)
    if kept is not None:
        return STATE, kept.state.removeprefix(f"{STATE}: ")
    read_now("torch")
    outcome = execute_and_keep(config, overrides)
    last = outcome.last
    place = report_folder(last) if is_evaluation(last) else last.folder
    return "done" if outcome.seconds else "done before", str(place)


def run_alone(config: Config, request: Request, started: float, overrides: list[str]) -> None:
    """Plan, or run everything, then say what came of it and what it cost."""
    if request.plan_only:
        print_plans(plan(config))
        return
    read_now("torch")
    outcome = execute_and_keep(config, overrides)
    folder = outcome.last.folder
    if outcome.last.is_run:
        print(closing_summary(folder))
        print_continuations(folder)
        rows = RunFolder(folder).samples
        if rows:
            Console(width=None if sys.stdout.isatty() else 120).print(render_samples(rows, SHOWN))
        print()
    else:
        made = trained_by(outcome.last)
        print(f"{made.name}: {made.folder}")
        print(stage_summary(report_folder(outcome.last)))
    print(spent(outcome, time.monotonic() - started))


def close_sweep(request: Request, started: float) -> int:
    """After a sweep, its table, or its plan; the exit code."""
    if request.plan_only:
        unique = {(item.name, item.key): item for item in request.plans}
        print_plans(list(unique.values()))
        return USER_ERROR if request.mistakes else 0
    found, remain = sweep.cells(sweep.FOLDERS[-1]), sweep.remaining(sweep.FOLDERS[-1])
    failed = table.print_table(found, started) if found or not remain else 0
    table.print_best(sweep.FOLDERS[-1])
    if remain:
        say(f"stopped: {remain}; the same command goes on")
        return STOPPED
    return 1 if failed else 0


def print_plans(plans: list[Plan]) -> None:
    """One line a stage, and for a miss what differs from the nearest artifact."""
    for item in plans:
        print(
            f"{'hit ' if item.hit else 'miss'}  {item.name:<14} {item.key}  {item.state}".rstrip()
        )
        for reason in (*item.reasons, *filter(None, [item.remark])):
            print(f"        {reason}")
    hits = sum(item.hit for item in plans)
    print(f"{hits} hits, {len(plans) - hits} misses")

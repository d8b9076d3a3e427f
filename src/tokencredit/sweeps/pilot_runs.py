"""Pilot runs: each an ordinary run, several at a time, and a row of the file as soon as it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Final

from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.machine.later import read_now
from tokencredit.machine.stopping import Stopped, listening
from tokencredit.papers.pilot_files import read_pilots, write_pilots, write_terms
from tokencredit.papers.pilots import Pilot, Trial, choose, trials
from tokencredit.pipeline.pipeline import execute, last_stage
from tokencredit.reports.times import duration
from tokencredit.stages.context import Context
from tokencredit.store.files import reading
from tokencredit.store.run_folder import COMPLETE, FAILED, RESULTS, RunFolder, git_commit
from tokencredit.sweeps.sweep import some_of
from tokencredit.sweeps.tuning import (
    Comparison,
    check_places,
    say_point,
    say_written,
    write_choices,
)

CLIPPED: Final = "ppo/clip_fraction"


def tune(comparison: Comparison, at_once: int = 1) -> list[Pilot]:
    """Do every pilot run that has no row yet, then write the choices; all rows.

    A call that ends early goes on with the same command: finished runs are found by their keys.
    """
    check_places(comparison)
    read_now("torch")
    board = Board(comparison)
    board.read()
    while due := board.due():
        write_terms(comparison.rows, comparison.terms, git_commit())
        board.run(due, at_once)
    say_written(write_choices(comparison, choose(board.rows, comparison.terms)))
    return board.rows


@dataclass(slots=True)
class Board:
    """The rows of a comparison, those of earlier calls with them."""

    comparison: Comparison
    rows: list[Pilot] = field(default_factory=list)
    seconds: float = 0.0
    """Of the runs of this call."""
    steps: int = 0
    """Theirs."""

    def read(self) -> None:
        """Take the rows that are kept and still say what a run of today would."""
        kept = {row.trial: row for row in read_pilots(self.comparison.rows)}
        known: dict[Trial, Pilot] = {}
        while new := [t for t in trials(list(known.values()), self.comparison.terms) if t in kept]:
            fresh = [trial for trial in new if trial not in known]
            true = [t for t in fresh if key_of(self.comparison.config(t)) == kept[t].key]
            known |= {trial: kept[trial] for trial in true}
            if not true or len(true) < len(fresh):
                break
        if len(known) < len(kept):
            say(f"tune: {len(kept) - len(known)} rows are of other settings and are made again")
        self.rows = list(known.values())

    def due(self) -> list[Trial]:
        """The runs that are known to be needed and have no row."""
        there = {row.trial for row in self.rows}
        return [t for t in trials(self.rows, self.comparison.terms) if t not in there]

    def add(self, row: Pilot) -> None:
        """Keep a row, in the file too."""
        self.rows.append(row)
        order = trials(self.rows, self.comparison.terms)
        self.rows.sort(key=lambda each: order.index(each.trial))
        write_pilots(self.comparison.rows, self.rows)

    def run(self, due: Sequence[Trial], at_once: int) -> None:
        """Do these runs, `at_once` at a time. What one that breaks off raises is raised once the
        others that have begun are kept; of a request to stop, once they are saved.
        """
        with listening():
            broken = self._run(due, at_once)
        if isinstance(broken, Stopped):
            there = {row.trial for row in self.rows}
            left = [trial for trial in due if trial not in there]
            named = some_of([f"{say_point(t.method, t.point)} seed {t.seed}" for t in left])
            raise Stopped(
                f"{broken}; {len(left)} of {len(due)} runs of this round remain ({named})"
            )
        if broken is not None:
            raise broken

    def _run(self, due: Sequence[Trial], at_once: int) -> BaseException | None:
        """As `run`; what the first that broke off has raised."""
        pending = list(due)
        running: dict[Future[Pilot], tuple[Trial, float]] = {}
        broken: BaseException | None = None
        with ThreadPoolExecutor(at_once) as pool:
            while running or (pending and broken is None):
                while pending and broken is None and len(running) < at_once:
                    trial = pending.pop(0)
                    config = self.comparison.config(trial)  # here: Hydra knows no threads
                    running[pool.submit(pilot, config, trial)] = trial, time.monotonic()
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    trial, began = running.pop(done)
                    broken = broken or done.exception()
                    if done.exception() is None:
                        self.add(done.result())
                        waiting = [*pending, *(other for other, _ in running.values())]
                        self._tell(done.result(), time.monotonic() - began, waiting, at_once)
        return broken

    def _tell(self, row: Pilot, took: float, waiting: Sequence[Trial], at_once: int) -> None:
        """Say what a run came to, and how long the others of this round take at its pace."""
        self.seconds, self.steps = self.seconds + took, self.steps + row.steps
        left = self.seconds / self.steps * sum(trial.steps for trial in waiting) / at_once
        what = f"{say_point(row.method, row.point)}, seed {row.seed}, {row.steps} steps"
        number = (
            "failed"
            if row.status == FAILED
            else f"oracle {row.gold:.3f}, KL {row.kl:.2f}, clipped {row.clip_fraction:.1%}"
        )
        rest = f"; {len(waiting)} more of this round, about {duration(left)}" if waiting else ""
        say(f"tune: {what}: {number}{rest}")


def pilot(config: Config, trial: Trial) -> Pilot:
    """Do a pilot run, unless it is done; its row.

    A run whose numbers went out of range is a row too; what else it ends with is raised.
    """
    stage = last_stage(Context(config))
    folder, key = stage.folder, stage.key
    try:
        execute(config)
    except UserError:
        manifest = RunFolder(folder).manifest()
        if manifest.get("key") != key or not manifest.get("failed"):
            raise
        return _row(trial, key, status=FAILED)
    return measured(folder, trial, key)


def measured(folder: Path, trial: Trial, key: str) -> Pilot:
    """The row of a finished run. Raises `UserError` where it has more steps than it was to have."""
    run = RunFolder(folder)
    results = run.results
    if results.get("steps") != trial.steps:
        raise UserError(
            f"{folder}: holds {results.get('steps')} steps of this pilot run, which was to have "
            f"{trial.steps}; its row was lost: restore the file of rows, or delete the folder"
        )
    with reading(folder / RESULTS):
        said = results["evaluation"]
        gold, kl, own, sft = (
            float(said[name]["mean"])
            for name in ("policy/oracle", "policy/kl", "policy/distinct_2", "sft/distinct_2")
        )
        seconds = float(results["wall_seconds"])
    clipped = run.series(CLIPPED)[1]
    return _row(
        trial,
        key,
        gold=gold,
        kl=kl,
        clip_fraction=fmean(clipped) if clipped else 0.0,  # an algorithm that clips nothing
        distinct_2=own,
        sft_distinct_2=sft,
        seconds=seconds,
    )


def _row(trial: Trial, key: str, status: str = COMPLETE, **numbers: float) -> Pilot:
    return Pilot(
        method=trial.method,
        point=trial.point,
        round=trial.round,
        seed=trial.seed,
        steps=trial.steps,
        key=key,
        status=status,
        **numbers,
    )


def key_of(config: Config) -> str:
    """The key of the run of a configuration."""
    return last_stage(Context(config)).key

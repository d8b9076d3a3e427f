"""Running what was recorded once more, in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.papers.cells import write_cell
from tokencredit.pipeline.cells import execute_and_keep, provenance
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.reproduction.comparing import (
    Check,
    compare,
    compare_plan,
    first_difference,
    likely_cause,
)
from tokencredit.reproduction.recorded import (
    DEVIATION,
    Machine,
    Recorded,
    ratings_of_seeds,
    read_recorded,
    recorded_config,
)
from tokencredit.stages.context import Context
from tokencredit.stages.rl import RLStage, is_run
from tokencredit.store.artifacts import environment, processor
from tokencredit.store.run_folder import FAILED, RunFolder, git_commit
from tokencredit.tracking.tracking import WandbMode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reproducing a run came to."""

    recorded: Recorded
    checks: Sequence[Check]
    cause: str
    """What may be behind the first difference; empty where there is none."""
    machine: Machine
    """That of the new run."""

    @property
    def difference(self) -> Check | None:
        """The first check that failed."""
        return first_difference(self.checks)


def reproduce(path: Path, steps: int | None = None, store: Path | None = None) -> Outcome:
    """Run what a run folder or a committed cell records again, and compare; nothing is changed.

    `steps`: only so many first steps; None: all. `store`: where stages are looked up and kept;
    None: a folder that is removed at the end. A key that differs from the recorded one ends it
    before any work, since another run would be compared.
    """
    recorded = read_recorded(path)
    rule = "has logged no step to compare; a model that learnt without rollouts has none"
    require(recorded.steps > 0, str(path), recorded.steps, rule)
    require(steps is None or steps >= 1, "--steps", steps, "must be at least 1")
    config = recorded_config(recorded)
    with tempfile.TemporaryDirectory(prefix="tokencredit-again-") as scratch:
        place = Path(scratch)
        _place(config, place, store or place / "store", steps)
        stage = all_stages(Context(config))[-1]
        if not is_run(stage):
            raise UserError(f"{path}: is of algorithm={config.algorithm}, which has no RL steps")
        checks = [compare_plan(recorded, stage.key, stage.identity)]
        now = Machine(environment(), processor(), config.hardware.arithmetic())
        if first_difference(checks) is None:
            again, deviations = _run(config, stage, recorded, place)
            algorithm = config.policy_algorithm
            seeds = ratings_of_seeds(recorded)
            checks += compare(recorded, again, deviations, algorithm.batch_size, seeds)
    found = first_difference(checks)
    commit = git_commit() or ""
    cause = "" if found is None else likely_cause(recorded, now, commit, found)
    return Outcome(recorded, checks, cause, now)


def _place(config: Config, place: Path, store: Path, steps: int | None) -> None:
    """Let a configuration write into a folder of its own alone; nothing here is part of a key."""
    config.run_dir, config.runs_dir = None, str(place / "runs")
    config.store, config.experiments_dir = str(store), None
    config.tracking.mode = WandbMode.disabled
    config.run.figures = False
    if steps is not None:
        # Set and not composed, since the KL coefficient's horizon follows the steps of the record.
        config.steps = min(steps, config.steps)


def _run(
    config: Config, stage: RLStage, recorded: Recorded, place: Path
) -> tuple[Recorded, list[float]]:
    """The new run as it is recorded, in the same form, and its scores' spread at each step."""
    try:
        execute_and_keep(config, [])
    except UserError as error:
        if recorded.status != FAILED or not RunFolder(stage.folder).manifest().get("failed"):
            raise
        say(f"ends as the recorded run did: {error}")
    rows = RunFolder(stage.folder).metrics
    deviations = [float(row.get(DEVIATION, 0.0)) for row in rows]
    if recorded.kind == "run":
        return read_recorded(stage.folder), deviations
    task = str(config.run.experiment).rpartition("/")[2]
    cell = write_cell(stage.folder, place / "cells", task, provenance(stage, []))
    return read_recorded(cell), deviations

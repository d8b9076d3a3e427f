"""The recipe: which stages a configuration needs, in which order, and what is done already."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokencredit.algorithms.procedure import JudgeOnly
from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.machine.child import Heard
from tokencredit.machine.stopping import Request, Stopped, listening
from tokencredit.pipeline.process import StageFailed, run_stage
from tokencredit.pipeline.supervisors import CREWS
from tokencredit.preflight import checks
from tokencredit.reports.times import budget
from tokencredit.stages.catalogue import STAGES, own_stage
from tokencredit.stages.context import Context
from tokencredit.stages.evaluation import EvaluationStage, is_evaluated
from tokencredit.stages.rl import RLStage
from tokencredit.stages.stage import Stage
from tokencredit.stages.supervised import report_stage
from tokencredit.store.artifacts import Plan, make_folder
from tokencredit.store.run_folder import RunFolder

GOALS: Final[Mapping[str, Callable[[Context], Stage]]] = {
    **STAGES,
    RLStage.name: RLStage,
    JudgeOnly.ends_with: own_stage,
}
"""What makes each stage that a run can be for, by name; `judge` is that of the run's judge."""


def all_stages(context: Context, goal: str = "") -> list[Stage]:
    """Every stage of the run, parents first; the last one is what the run is for, or of the name
    `goal`.
    """
    ordered: dict[tuple[str, str], Stage] = {}

    def visit(stage: Stage) -> None:
        for parent in stage.parents().values():
            visit(parent)
        ordered.setdefault((stage.name, stage.key), stage)

    visit(GOALS[goal](context) if goal else last_stage(context))
    return list(ordered.values())


def last_stage(context: Context) -> Stage:
    """What the run is for; of a model that learnt without rollouts its evaluation, where there can
    be one."""
    algorithm = context.config.algorithm
    require(
        algorithm.ends_with in GOALS,
        f"algorithm = {type(algorithm).__name__}: ends_with",
        algorithm.ends_with,
        f"must name the stage that the run ends with, one of {', '.join(GOALS)}",
    )
    stage = GOALS[algorithm.ends_with](context)
    return EvaluationStage(context) if is_evaluated(stage) else stage


def plan(config: Config) -> list[Plan]:
    """Hit or miss of every stage; an error for what `execute` would refuse."""
    context = Context(config)
    stages = _checked(context)
    return [stage.plan() for stage in stages]


def _checked(context: Context) -> list[Stage]:
    """Every stage of the run; an error for what can be refused without work."""
    for crew in CREWS:
        crew.launch.check_size(context.config.hardware.processes)
    stages = all_stages(context)
    checks.check(context, stages)
    return stages


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pipeline made, and how long the stages of each name that had to run took."""

    last: Stage
    seconds: dict[str, float]


def execute(config: Config) -> Outcome:
    """Build what is missing, each stage in a process of its own."""
    context = Context(config)
    stages = _checked(context)
    for crew in CREWS:
        crew.check_shared(_written(context, stages))
    context.remember()
    seconds = make(config, stages)
    if not stages[-1].is_run:
        report_stage(stages[-1], anew=stages[-1].name in seconds)
    return Outcome(stages[-1], seconds)


def _written(context: Context, stages: Sequence[Stage]) -> list[Path]:
    """The folders in which a run leaves something, made if they are missing."""
    folders = [context.store.root, *[stage.folder.parent for stage in stages if stage.is_run]]
    for folder in folders:
        make_folder(folder)
    return folders


def make(config: Config, stages: Sequence[Stage], goal: str = "") -> dict[str, float]:
    """Build those of these stages that are missing, in this order; the seconds of each name.

    `goal`: the stage that they are made for, where that is not what the run is for. Raises
    `Stopped` where a signal asks to stop: what can be saved of a stage is.
    """
    with listening() as asked:
        return _make(config, stages, goal, asked)


def _make(config: Config, stages: Sequence[Stage], goal: str, asked: Request) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stage in stages:
        if stage.is_done():
            say(f"{stage.name} {stage.key}: {stage.found()}")
            continue
        for crew in CREWS:
            crew.listen(Heard(None))
            if crew.asked:
                asked.ask(crew.asked)
        if asked.asked:
            raise Stopped(f"{stage.name} {stage.key} was not begun")
        say(f"{stage.name} {stage.key}: running")
        started = time.monotonic()
        code, mistake = run_stage(config, stage.name, stage.key, *filter(None, [goal]))
        if mistake:
            raise UserError(mistake)
        if code != 0:
            raise StageFailed(stage.name, code)
        if not stage.is_done():
            raise UserError(
                f"stage {stage.name} ended with exit code 0 and its result is not there "
                f"({stage.folder}): something ended its process early, or removed what "
                "it wrote; run the same command again"
            )
        took = time.monotonic() - started
        seconds[stage.name] = seconds.get(stage.name, 0.0) + took
        say(f"{stage.name} {stage.key}: done in {took:.0f} s")
    return seconds


def spent(outcome: Outcome, total: float) -> str:
    """Seconds of every part of the command; `make train` adds those of the installation."""
    ran = "rl" in outcome.seconds
    session = RunFolder(outcome.last.folder).manifest().get("session", {}) if ran else {}
    install = float(os.environ.get("TOKENCREDIT_INSTALL_SECONDS", "0"))
    return budget(outcome.seconds, total, session, install)

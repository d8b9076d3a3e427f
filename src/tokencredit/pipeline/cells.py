"""Cells of an experiment kept beside its page: which count as done, and what is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.papers.cells import PLACES, write_cell, write_stepless
from tokencredit.papers.token_classes import ADVANTAGES
from tokencredit.pipeline.pipeline import Outcome, all_stages, execute
from tokencredit.rl.compute import spent
from tokencredit.stages.context import Context
from tokencredit.stages.evaluation import EvaluationStage, is_evaluation
from tokencredit.stages.judge_stage import JudgeStage
from tokencredit.stages.results import called
from tokencredit.stages.rl import RLStage, is_run
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import MANIFEST, Plan, processor
from tokencredit.store.files import read_json, write_json, write_text
from tokencredit.store.run_folder import COMPLETE, RunFolder, git_commit

STATE: Final = "done (committed)"
CURVE: Final = "curve"
"""The figure of a stage that is no number: its losses."""


def committed_cell(config: Config) -> Plan | None:
    """The cell of this configuration that is kept already, as a plan that has nothing to do."""
    folder = cells_folder(config)
    if folder is None or config.sweep.recompute:
        return None
    stage = all_stages(Context(config))[-1]
    if not (is_run(stage) or is_evaluation(stage) or isinstance(stage, JudgeStage)):
        return None
    path = folder / (f"{stage.name}.json" if isinstance(stage, JudgeStage) else f"{stage.key}.csv")
    if not _is_done(path, stage, config):
        return None
    return Plan(stage.name, stage.key, hit=True, state=f"{STATE}: {path}")


def cells_folder(config: Config) -> Path | None:
    """Where the cells of the experiment are kept; None for a run that has none, or nowhere to."""
    if config.experiments_dir is None or config.run.experiment is None:
        return None
    return Path(config.experiments_dir).expanduser() / config.run.experiment


def execute_and_keep(config: Config, overrides: Sequence[str]) -> Outcome:
    """As `execute`; a cell of an experiment is kept at once, and so is one that has failed.

    A model that learnt without rollouts is one where it has been evaluated. Of a judge's stage with
    which a run ends its figures are kept.
    """
    try:
        outcome = execute(config)
    except Exception:
        _keep_failed(config, overrides)
        raise
    last = outcome.last
    if is_run(last) or is_evaluation(last):
        keep(config, last, overrides, anew=last.name in outcome.seconds)
    elif isinstance(last, JudgeStage):
        keep_judge(config, last, overrides, anew=last.name in outcome.seconds)
    return outcome


def keep(
    config: Config, stage: RLStage | EvaluationStage, overrides: Sequence[str], *, anew: bool
) -> Path | None:
    """Write the cell of a run to its experiment's folder; the path of its CSV.

    Unless it was computed `anew`, it replaces no file: that may be of another machine.
    """
    folder = cells_folder(config)
    if folder is None:
        return None
    path = folder / f"{stage.key}.csv"
    if not anew and _is_done(path, stage, config):
        return path
    task = str(config.run.experiment).rpartition("/")[2]
    if isinstance(stage, EvaluationStage):
        lengths = config.rollout.min_new_tokens, config.rollout.max_new_tokens
        made = {"overrides": _chosen(overrides), **stage.provenance()}
        return write_stepless(stage.results(), lengths, folder, task, made)
    return write_cell(stage.folder, folder, task, provenance(stage, overrides))


def keep_judge(
    config: Config, stage: JudgeStage, overrides: Sequence[str], *, anew: bool
) -> Path | None:
    """Write STAGE.json with figures and time of a judge's stage to its experiment's folder, and a
    copy of its advantages.csv, if it has one; the path of the former.

    The file of another setting is replaced with sweep.recompute=true alone. Unless it was computed
    `anew`, commit and processor are not known.
    """
    folder = cells_folder(config)
    if folder is None:
        return None
    path, made = folder / f"{stage.name}.json", read_json(stage.folder / MANIFEST)
    other = read_json(path).get("config_hash") if path.is_file() else None
    if other is not None and not config.sweep.recompute:
        if other != stage.key:
            remedy = "sweep.recompute=true replaces it"
            say(f"{path}: is of another setting, {other}, and stays; {remedy}")
        return path
    kept = stage.folder / ADVANTAGES
    if kept.is_file():
        write_text(folder / ADVANTAGES, kept.read_text(encoding="utf-8"))
    figures = {name: value for name, value in stage.figures().items() if name != CURVE}
    record = {
        **called(config, stage.key, config.stage_seed),
        "stage": stage.name,
        "status": COMPLETE,
        "scale": config.run.scale,
        "git_commit": git_commit() if anew else None,
        "processor": processor() if anew else None,
        "wall_seconds": made["seconds"],
        "figures": figures,
        "provenance": {
            "overrides": _chosen(overrides),
            "environment": made["environment"],
            "identity": made["identity"],
            "recipes": stage.recipes,
        },
    }
    write_json(path, record)
    return path


def provenance(stage: RLStage, overrides: Sequence[str]) -> dict[str, Any]:
    """What computed a run, from what, and how to compute it again."""
    run = RunFolder(stage.folder)
    manifest, store = run.manifest(), stage.context.store
    return {
        "overrides": _chosen(overrides),
        "environment": manifest.get("environment"),
        "processor": manifest.get("processor"),
        "arithmetic": manifest.get("arithmetic"),
        "fingerprints": manifest.get("fingerprints"),
        "parents": {
            role: {"key": parent.key, "sha256": store.sha256(parent)}
            for role, parent in stage.parents().items()
        },
        "identity": manifest.get("identity"),
        "recipes": stage.recipes,
        "spent": spent(stage.context.config, run),
    }


def _chosen(overrides: Sequence[str]) -> list[str]:
    """The overrides that say something about a result."""
    return [text for text in overrides if not text.lstrip("+~").startswith(PLACES)]


def _is_done(path: Path, stage: Stage, config: Config) -> bool:
    """Whether `path` is the cell of this key and experiment, complete, with all the steps."""
    try:
        record = read_json(path.with_suffix(".json"))
        rows = path.read_text(encoding="utf-8").count("\n") - 1
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        say(f"{path}: is damaged ({error}); the cell is computed again")
        return False
    same = (record.get("config_hash"), record.get("experiment"), record.get("status"))
    wanted = (stage.key, config.run.experiment, COMPLETE)
    return same == wanted and rows >= (config.steps if stage.is_run else 1)


def _keep_failed(config: Config, overrides: Sequence[str]) -> None:
    """Keep a run whose numbers went out of range; of any other failure there is nothing to keep."""
    if cells_folder(config) is None:
        return
    try:
        stage = all_stages(Context(config))[-1]
        if not is_run(stage):
            return
        run = RunFolder(stage.folder)
        manifest = run.manifest()
        if manifest.get("key") == stage.key and manifest.get("failed"):
            keep(config, stage, overrides, anew=True)
    except (UserError, OSError) as error:  # what is being handled says more
        say(f"the failed cell was not kept: {error}")

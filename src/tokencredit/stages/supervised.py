"""The folder of a run that ends before RL (algorithm=sft, dpo, figa): what its stages came to.

The model itself stays in the store; this is for people: report.html, the W&B copy, and results.json
where the model was evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokencredit.canonical import canonical
from tokencredit.errors import require
from tokencredit.reports.stage_report import (
    RECORD,
    curves_of,
    is_stage_folder,
    left_out,
    write_stage_report,
)
from tokencredit.stages.evaluation import is_evaluation
from tokencredit.stages.mirrored import (
    facts,
    headline,
    labelled,
    rows_left_out,
    stage_numbers,
)
from tokencredit.stages.results import drawing
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import MANIFEST, check_writable
from tokencredit.store.files import read_json, write_json
from tokencredit.store.run_folder import RESULTS, git_commit
from tokencredit.tracking.wandb_mirror import WandbMirror


def trained_by(stage: Stage) -> Stage:
    """The stage that trained the model of a run that ends with `stage`."""
    return stage.trained if is_evaluation(stage) else stage


def report_folder(stage: Stage) -> Path:
    """Where the report of a run lies that ends with `stage`."""
    config = stage.context.config
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser()
    name = config.run.experiment or trained_by(stage).name
    return Path(config.runs_dir).expanduser() / name / stage.key


def check_report_folder(stage: Stage) -> None:
    """Raise unless the report can be written, and takes no other run's place."""
    folder, named = report_folder(stage), stage.context.config.run_dir is not None
    key = "run_dir" if named else "runs_dir"
    check_writable(folder, key)
    other = read_json(folder / RECORD).get("key") if is_stage_folder(folder) else None
    free = other in {None, stage.key} and not (folder / MANIFEST).is_file()
    require(free, key, str(folder), "holds another run; choose another place, or delete it")


def report_stage(stage: Stage, *, anew: bool) -> None:
    """Write results.json of an evaluation, stage.json, and report.html, and mirror the run; if that
    is done and the result was not computed `anew`, nothing."""
    folder, config = report_folder(stage), stage.context.config
    if is_stage_folder(folder) and not anew:
        return
    store, corpus, trained = stage.context.store, stage.context.corpus, trained_by(stage)
    figures = {**stage.figures_before(), trained.name: trained.figures()}
    folder.mkdir(parents=True, exist_ok=True)
    results = stage.results() if is_evaluation(stage) else {}
    if results:
        write_json(folder / RESULTS, results)
    record: dict[str, Any] = {
        "schema_version": 1,
        "stage": trained.name,
        "key": stage.key,
        "git_commit": git_commit(),
        "names": {name: getattr(config, name).name for name in ("model", "dataset", "hardware")},
        "seeds": {"stage_seed": config.stage_seed},
        "model": str(store.folder(trained)),
        "figures": canonical(figures),
        "dropped": dict(corpus.dropped.counts),
        "filtered": dict(corpus.dropped.filtered),
    }
    write_json(folder / RECORD, record)
    _mirror(stage, folder, figures, headline(results) if results else {})
    if config.run.figures:
        drawing(write_stage_report, folder)


def _mirror(
    stage: Stage, folder: Path, figures: dict[str, dict[str, Any]], measured: dict[str, float]
) -> None:
    """The copy at W&B: the loss of the model's stage as history, those of the others as charts."""
    config, name = stage.context.config, trained_by(stage).name
    curve = figures[name].get("curve", {"step": [], "loss": []})
    history = [
        {"step": step, f"{name}/loss": loss}
        for step, loss in zip(curve["step"], curve["loss"], strict=True)
    ]
    mirror = WandbMirror.open(
        labelled(config, name),
        folder,
        stage.key,
        f"{name} seed {config.stage_seed}",
        facts(config, stage.key),
        history,
    )
    earlier = {role: x for role, x in figures.items() if role != name}
    mirror.curves(history[-1]["step"] + 1 if history else 0, curves_of(earlier))
    dropped = stage.context.corpus.dropped
    lost = left_out(dropped.counts, dropped.filtered, figures)
    mirror.finish(measured | stage_numbers(figures) | rows_left_out(lost))

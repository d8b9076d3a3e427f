"""The folder of a run that ends before RL (algorithm=sft, algorithm=dpo): what its stages came to.

The model itself stays in the store; this is for people: report.html, and the W&B copy.
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
from tokencredit.stages.mirrored import (
    facts,
    labelled,
    rows_left_out,
    stage_numbers,
)
from tokencredit.stages.results import drawing
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import MANIFEST, check_writable
from tokencredit.store.files import read_json, write_json
from tokencredit.store.run_folder import git_commit
from tokencredit.tracking.wandb_mirror import WandbMirror


def report_folder(stage: Stage) -> Path:
    """Where the report of a run lies that ends with `stage`."""
    config = stage.context.config
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser()
    name = config.run.experiment or stage.name
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
    """Write stage.json and report.html, and mirror the run; if that is done and the result was not
    computed `anew`, nothing."""
    folder, config = report_folder(stage), stage.context.config
    if is_stage_folder(folder) and not anew:
        return
    store, corpus = stage.context.store, stage.context.corpus
    figures = {**stage.figures_before(), stage.name: stage.figures()}
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "schema_version": 1,
        "stage": stage.name,
        "key": stage.key,
        "git_commit": git_commit(),
        "names": {name: getattr(config, name).name for name in ("model", "dataset", "hardware")},
        "seeds": {"stage_seed": config.stage_seed},
        "model": str(store.folder(stage)),
        "figures": canonical(figures),
        "dropped": dict(corpus.dropped.counts),
        "filtered": dict(corpus.dropped.filtered),
    }
    write_json(folder / RECORD, record)
    _mirror(stage, folder, figures)
    if config.run.figures:
        drawing(write_stage_report, folder)


def _mirror(stage: Stage, folder: Path, figures: dict[str, dict[str, Any]]) -> None:
    """The copy at W&B: the stage's own loss as history, those before it as charts."""
    config = stage.context.config
    curve = figures[stage.name].get("curve", {"step": [], "loss": []})
    history = [
        {"step": step, f"{stage.name}/loss": loss}
        for step, loss in zip(curve["step"], curve["loss"], strict=True)
    ]
    mirror = WandbMirror.open(
        labelled(config, stage.name),
        folder,
        stage.key,
        f"{stage.name} seed {config.stage_seed}",
        facts(config, stage.key),
        history,
    )
    earlier = {role: x for role, x in figures.items() if role != stage.name}
    mirror.curves(history[-1]["step"] + 1 if history else 0, curves_of(earlier))
    dropped = stage.context.corpus.dropped
    lost = left_out(dropped.counts, dropped.filtered, figures)
    mirror.finish(stage_numbers(figures) | rows_left_out(lost))

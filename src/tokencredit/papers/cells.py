"""Cells of an experiment as files to commit: `<key>.csv` is the curve, `<key>.json` the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokencredit.store.files import (
    reading,
    write_json,
    write_text,
)
from tokencredit.store.run_folder import CONFIG, RunFolder
from tokencredit.store.sheets import csv_text

Record = Mapping[str, Any]
"""What a run is known by: what results.json, its log, or its provenance holds."""
PLACES: Final = ("hydra", "store=", "runs_dir=", "experiments_dir=", "sweep.", "tracking", "run.")
"""Overrides that say nothing about a result."""
COLUMNS: Final = (
    "task",
    "method",
    "beta",
    "min_new_tokens",
    "max_new_tokens",
    "run",
    "step",
    "mean_reward",
    "kl",
    "value_loss",
    "seed",
    "status",
)
METRICS: Final = {"mean_reward": "score/mean", "kl": "kl/k1", "value_loss": "value/loss"}
"""Which metric of a run each column holds; an algorithm without one leaves its column empty."""
NOTED: Final = {
    "implicit_reward": "judge/implicit_reward",
    "clip_fraction": "ppo/clip_fraction",
    "explained_variance": "value/explained_variance",
    "return_sd": "reward/return_sd",
    "kl_share": "reward/kl_share",
    "length": "length/mean",
    "flops": "compute/flops",
}
"""Further columns, of runs that have such a metric."""
ON_THE_WAY: Final = {
    "score": "eval/score",
    "kl": "eval/kl",
    "oracle": "eval/oracle",
    "distinct_2": "eval/distinct_2",
    "length": "eval/length",
    "perplexity": "eval/perplexity",
    "perplexity_sft": "policy/perplexity_sft",
}
"""What evaluations during training measure, and the metric that holds it."""


def experiments_dir(setting: str | None) -> str | None:
    """Where cells are kept: as set; with `auto`, experiments/ of a clone that is worked in."""
    if setting != "auto":
        return setting
    clone = Path("src/tokencredit").is_dir() and Path("experiments").is_dir()
    return "experiments" if clone else None


def on_the_way(run: RunFolder) -> dict[str, list[float]]:
    """Evaluations on held-out prompts during training as equally long columns; empty without any.

    The value at step s is of the policy after s updates. That of the finished run comes last.
    """
    results = run.results
    ends = results.get("steps", len(run.metrics))
    rows = [row for row in run.metrics[:ends] if ON_THE_WAY["score"] in row]
    names = {name: metric for name, metric in ON_THE_WAY.items() if rows and metric in rows[0]}
    found = {"step": [float(row["step"]) for row in rows]}
    found |= {name: [float(row[metric]) for row in rows] for name, metric in names.items()}
    last = results.get("evaluation", {})
    if rows and all(f"policy/{name}" in last for name in names):
        found["step"].append(float(ends))
        for name in names:
            found[name].append(float(last[f"policy/{name}"]["mean"]))
    return found if rows else {}


def write_cell(
    run: Path, folder: Path, task: str, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write a run that is complete or has failed to `folder`; the path of its CSV.

    Both files are written whole and renamed, the JSON last, so a cell is there or it is not.
    """
    made = RunFolder(run)
    record, config = made.record(), made.config
    rows, seed = made.metrics[: record["steps"]], record["seeds"]["seed"]
    with reading(run / CONFIG):
        lengths = [config["rollout"][name] for name in ("min_new_tokens", "max_new_tokens")]
        fixed = [task, record["scheme"], config["reward_scheme"].get("beta", ""), *lengths, seed]
    on_way = on_the_way(made)
    more: dict[str, object] = {} if provenance is None else {"provenance": dict(provenance)}
    more |= {"on_the_way": on_way} if on_way else {}
    return _write(folder, fixed, rows, {**record, **more})


def write_stepless(
    record: Record,
    lengths: tuple[int, int],
    folder: Path,
    task: str,
    provenance: Record,
) -> Path:
    """As `write_cell`, of a model that learnt without rollouts: one line, without a step.

    `record` is what results.json holds of it, `lengths` the half-open range of response tokens.
    """
    fixed = [task, record["scheme"], "", *lengths, record["seeds"]["seed"]]
    return _write(folder, fixed, [], {**record, "provenance": dict(provenance)})


def _write(
    folder: Path,
    fixed: Sequence[object],
    rows: Sequence[Record],
    record: Record,
) -> Path:
    """Both files; `fixed` stands in front of each line, its last value is the seed."""
    seed, status = fixed[-1], record["status"]
    noted = {column: metric for column, metric in NOTED.items() if rows and metric in rows[0]}
    lines: list[Sequence[object]] = [[*COLUMNS, *noted]]
    for row in rows:
        measured, more = (
            [row.get(metric, "") for metric in group.values()] for group in (METRICS, noted)
        )
        lines.append([*fixed, row["step"], *measured, seed, status, *more])
    if not rows:  # it failed in its first step, and must be counted all the same; or it has none
        lines.append([*fixed, "", *[""] * len(METRICS), seed, status])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['config_hash']}.csv"
    write_text(path, csv_text(lines))
    write_json(path.with_suffix(".json"), record)
    return path

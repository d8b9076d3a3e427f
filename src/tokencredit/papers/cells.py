"""Cells of an experiment as files to commit: `<key>.csv` is the curve, `<key>.json` the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tokencredit.store.files import (
    check_keys,
    read_json,
    read_yaml,
    reading,
    write_json,
    write_text,
)
from tokencredit.store.jsonl import read_steps
from tokencredit.store.sheets import csv_text

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
COMPLETE: Final = "complete"
FAILED: Final = "failed"
RUNNING: Final = "running"
STATUSES: Final = (COMPLETE, FAILED, RUNNING)


RESULTS: Final = {"config_hash": str, "seeds": dict, "steps": int, "status": str}
"""Keys of results.json that are read, and their types."""


def write_cell(
    run: Path, folder: Path, task: str, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write a run that is complete or has failed to `folder`; the path of its CSV.

    Both files are written whole and renamed, the JSON last, so a cell is there or it is not.
    """
    record = describe_run(run)
    rows = read_steps(run / "metrics.jsonl")[: record["steps"]]
    seed = record["seeds"]["seed"]
    with reading(run / "config.yaml"):
        config = read_yaml(run / "config.yaml")
        lengths = [config["rollout"][name] for name in ("min_new_tokens", "max_new_tokens")]
        fixed = [task, record["scheme"], config["reward_scheme"].get("beta", ""), *lengths, seed]
    noted = {column: metric for column, metric in NOTED.items() if rows and metric in rows[0]}
    lines: list[Sequence[object]] = [[*COLUMNS, *noted]]
    for row in rows:
        measured, more = (
            [row.get(metric, "") for metric in group.values()] for group in (METRICS, noted)
        )
        lines.append([*fixed, row["step"], *measured, seed, record["status"], *more])
    if not rows:  # it failed in its first step, and must be counted all the same
        lines.append([*fixed, "", *[""] * len(METRICS), seed, record["status"]])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['config_hash']}.csv"
    write_text(path, csv_text(lines))
    extra = {} if provenance is None else {"provenance": dict(provenance)}
    write_json(path.with_suffix(".json"), {**record, **extra})
    return path


def describe_run(run: Path) -> dict[str, Any]:
    """results.json of a complete run; of one that has none, what is known all the same."""
    results, manifest = _json(run / "results.json"), _json(run / "manifest.json")
    failed = manifest.get("failed")
    if results and not failed:
        check_keys(results, run / "results.json", RESULTS)
        return results
    check_keys(manifest, run / "manifest.json", {"key": str})
    with reading(run / "config.yaml"):
        return _known(run, read_yaml(run / "config.yaml"), manifest)


def _known(run: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run without results."""
    names, failed = config["run"], manifest.get("failed")
    return {
        "schema_version": 1,
        "config_hash": manifest["key"],
        "experiment": names["experiment"],
        "scheme": names["scheme"],
        "names": {name: config[name]["name"] for name in ("model", "dataset", "hardware")},
        "seeds": {"seed": config["seed"], "stage_seed": config["stage_seed"]},
        "status": FAILED if failed else RUNNING,
        "error": failed,
        "steps": len(read_steps(run / "metrics.jsonl")),
        "scale": names["scale"],
        "git_commit": manifest.get("git_commit"),
    }


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}

"""Finished cells of an experiment as CSV files, and the table and the figure made from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from tokencredit.atomic import read_json, write_text
from tokencredit.errors import UserError
from tokencredit.reports.figures import plot_curves
from tokencredit.reports.statistics import Interval, mean_ci, paired_difference
from tokencredit.tracking.jsonl import read_jsonl

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
LAST: Final = 10
HELD_OUT: Final = ("score", "oracle", "distinct_2", "kl")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: its scheme, its seed, its curve, and its evaluation."""

    method: str
    seed: int
    rewards: list[float]
    """Mean score of each step."""
    kl: list[float]
    evaluation: Mapping[str, Mapping[str, float]]


def write_cell(run: Path, folder: Path, task: str) -> Path:
    """Write `<key>.csv` and `<key>.json` of a finished run to `folder`; the CSV's path."""
    results = read_json(run / "results.json")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    beta = config["reward_scheme"].get("beta", "")
    lengths = [config["rollout"][name] for name in ("min_new_tokens", "max_new_tokens")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    seed = results["seeds"]["seed"]
    fixed = [task, results["scheme"], beta, *lengths, seed]
    for row in read_jsonl(run / "metrics.jsonl"):
        measured = [row["step"], row["score/mean"], row["kl/k1"], row["value/loss"]]
        writer.writerow([*fixed, *measured, seed, results["status"]])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results['config_hash']}.csv"
    write_text(path, text.getvalue())
    write_text(path.with_suffix(".json"), (run / "results.json").read_text(encoding="utf-8"))
    return path


def read_cells(folder: Path) -> list[Cell]:
    """Every committed cell, by method and seed."""
    cells = []
    for path in folder.glob("*.csv"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        results = read_json(path.with_suffix(".json"))
        cells.append(
            Cell(
                method=rows[0]["method"],
                seed=int(rows[0]["seed"]),
                rewards=[float(row["mean_reward"]) for row in rows],
                kl=[float(row["kl"]) for row in rows],
                evaluation=results["evaluation"],
            )
        )
    if not cells:
        raise UserError(f"{folder}: holds no cells (*.csv)")
    return sorted(cells, key=lambda cell: (cell.method, cell.seed))


def by_method(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each method, by seed."""
    methods = sorted({cell.method for cell in cells})
    return {method: [cell for cell in cells if cell.method == method] for method in methods}


def table(cells: Sequence[Cell]) -> str:
    """Markdown: training and held-out results by method, mean over seeds with 95 % t interval."""
    head = ["method", "seeds", "mean score, all steps", f"last {LAST} steps", f"KL, last {LAST}"]
    head += [f"held-out {name}" for name in HELD_OUT[:3]]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, runs in by_method(cells).items():
        columns = [
            [_mean(run.rewards) for run in runs],
            [_mean(run.rewards[-LAST:]) for run in runs],
            [_mean(run.kl[-LAST:]) for run in runs],
            *([run.evaluation[f"policy/{name}"]["mean"] for run in runs] for name in HELD_OUT[:3]),
        ]
        entries = [method, str(len(runs)), *(_interval(mean_ci(column)) for column in columns)]
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def paired_table(cells: Sequence[Cell], baseline: str) -> str:
    """Markdown: each method's mean score over all steps minus the baseline's, paired by seed."""
    groups = by_method(cells)
    base = {cell.seed: _mean(cell.rewards) for cell in groups[baseline]}
    lines = [f"| minus {baseline} | pairs | difference | t | p |", "|---|---|---|---|---|"]
    for method, runs in groups.items():
        pairs = [(_mean(run.rewards), base[run.seed]) for run in runs if run.seed in base]
        if method == baseline or not pairs:
            continue
        test = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
        row = [method, str(test.n), _interval(test.difference), f"{test.t:.2f}", f"{test.p:.3f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def figure(cells: Sequence[Cell], out: Path) -> Path:
    """The mean score of each method over training."""
    curves = {method: [run.rewards for run in runs] for method, runs in by_method(cells).items()}
    return plot_curves(curves, out)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _interval(x: Interval) -> str:
    return f"{x.mean:.2f} [{x.low:.2f}, {x.high:.2f}]"

"""Run CSVs and run folders with numbers that can be worked out by hand, and the authors' own logs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokencredit.papers.cells import write_stepless

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TOKENCREDIT_DATA", ROOT.parent / "shared" / "data"))
AUTHORS = DATA / "abc_paper_runs"
needs_authors = pytest.mark.skipif(not AUTHORS.is_dir(), reason=f"TOKENCREDIT_DATA: no {AUTHORS}")
HEAD = "task,method,beta,min_new_tokens,max_new_tokens,run,step,mean_reward"


def lines(  # noqa: PLR0913 - a column each
    method: str,
    run: int,
    rewards: Sequence[float],
    *,
    task: str = "positive_generation",
    beta: object = 0.8,
    lengths: tuple[int, int] = (8, 16),
    kl: Sequence[float] | None = None,
    status: str = "complete",
) -> list[str]:
    """The rows of one run, with kl and status."""
    low, high = lengths
    return [
        f"{task},{method},{beta},{low},{high},{run},{step},{reward},"
        f"{'' if kl is None else kl[step]},{status}"
        for step, reward in enumerate(rewards)
    ]


def write_csv(path: Path, *runs: Iterable[str]) -> Path:
    """A run CSV of these runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [line for run in runs for line in run]
    path.write_text("\n".join([f"{HEAD},kl,status", *rows]) + "\n", encoding="utf-8")
    return path


def write_cell_json(path: Path, identity: Mapping[str, Any], key: str = "k" * 16) -> None:
    """What lies beside a committed CSV."""
    record = {
        "config_hash": key,
        "experiment": "abc/positive_generation",
        "scale": "cpu",
        "names": {"model": "tiny"},
        "git_commit": "c" * 40,
        "provenance": {"identity": identity},
    }
    path.with_suffix(".json").write_text(json.dumps(record))


def write_whole_cell(  # noqa: PLR0913 - what a cell may hold
    folder: Path,
    method: str,
    run: int,
    *,
    kl: Sequence[float],
    gold: Sequence[float],
    paid: Sequence[float] | None = None,
    every: int = 5,
    flops: float = 1e9,
    scored: int | None = None,
    spent: Mapping[str, float] | None = None,
    parents: Mapping[str, str] | None = None,
    task: str = "positive_generation",
    on_the_way: bool = True,
    status: str = "complete",
    ends: Mapping[str, float] | None = None,
) -> Path:
    """A committed cell whose held-out KL, gold, and paid score are those after 0, `every`, … steps.

    Its steps need `flops` operations each and score 16 responses; `parents` are the hashes of the
    stages before it, by role. `ends` are further measures of the evaluation. Without `on_the_way` it is as cells were before there were such
    evaluations: with the last values alone.
    """
    steps = every * (len(kl) - 1)
    paid = paid or gold
    heads = f"{HEAD},kl,value_loss,seed,status,clip_fraction,flops"
    fixed = f"{task},{method},0.8,8,16,{run}"
    rows = [
        f"{fixed},{step},{paid[step // every]},{kl[step // every]},0.5,{run},{status},0.25,{flops}"
        for step in range(steps)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{method}{run}.csv"
    path.write_text("\n".join([heads, *rows]) + "\n", encoding="utf-8")
    last = {"oracle": gold, "score": paid, "kl": kl, "distinct_2": [0.875], "length": [12.0]}
    record = _record(method, run, task, status, parents or {})
    record["evaluation"] = {f"policy/{name}": {"mean": x[-1]} for name, x in last.items()}
    record["evaluation"] |= {name: {"mean": x} for name, x in (ends or {}).items()}
    if on_the_way:
        measured = {"step": [every * k for k in range(len(kl))], "kl": kl, "oracle": gold}
        record["on_the_way"] = {**measured, "score": paid, "distinct_2": [0.875] * len(kl)}
        record["scored_samples"] = 16 * steps if scored is None else scored
        record["provenance"]["spent"] = dict(spent or {})
    if status != "complete":
        del record["evaluation"]
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


def write_stepless_cell(
    folder: Path, method: str, run: int, *, task: str = "main", **ends: float
) -> Path:
    """A committed cell of a model that learnt without rollouts, with these measures of it."""
    record = _record(method, run, task, "complete", {"policy": f"{method}{run}"})
    made = record.pop("provenance")
    del made["parents"]["reward_model"], made["fingerprints"]["rl"]
    made["identity"] = {"stage": "evaluation", "parents": {"policy": f"{method}{run}"}}
    made["spent"] = {}
    evaluation = {
        f"policy/{name}": {"mean": value, "se": 0.1, "n": 9} for name, value in ends.items()
    }
    given = {"scheme": method, "steps": 0, "scored_samples": 64, "evaluation": evaluation}
    return write_stepless({**record, **given}, (8, 16), folder, task, made)


def _record(
    method: str, run: int, task: str, status: str, more: Mapping[str, str]
) -> dict[str, Any]:
    """What lies beside a cell, without what was measured; `more` are further hashes by role."""
    parents = {"sft": f"sft{run}", "reward_model": "rm", "oracle": "or", **more}
    algorithm = {"class": "PPO", "batch_size": 16, "normalise": "none"}
    return {
        "config_hash": f"{method}{run}",
        "experiment": f"abc/{task}",
        "scale": "cpu",
        "names": {"model": "tiny"},
        "git_commit": "c" * 40,
        "seeds": {"seed": run, "stage_seed": run},
        "status": status,
        "wall_seconds": 100.0 + run,
        "provenance": {
            "fingerprints": {"rl": "prompts", "eval": "held out"},
            "parents": {role: {"key": f"k{sha}", "sha256": sha} for role, sha in parents.items()},
            "identity": {
                "inputs": {"algorithm": algorithm, "seed": run},
                "parents": dict.fromkeys(parents, "k"),
            },
            "recipes": dict.fromkeys(parents, "r"),
        },
    }


def write_run_folder(  # noqa: PLR0913 - what a run may be
    folder: Path,
    rewards: Sequence[float],
    *,
    key: str = "a" * 16,
    scheme: str = "abc",
    seed: int = 0,
    experiment: str | None = "abc/positive_generation",
    failed: str | None = None,
    finished: bool = True,
    identity: Mapping[str, Any] | None = None,
    value_loss: bool = True,
) -> Path:
    """A run folder with this curve; the KL is twice the score."""
    folder.mkdir(parents=True)
    rows = [
        {"step": step, "score/mean": score, "kl/k1": 2 * score}
        | ({"value/loss": 0.5} if value_loss else {})
        for step, score in enumerate(rewards)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"model": {"name": "tiny"}, "dataset": {"name": "imdb"}, "hardware": {"name": "cpu"}}
    config = {
        **names,
        "reward_scheme": {"beta": 0.8} if scheme == "abc" else {},
        "rollout": {"min_new_tokens": 8, "max_new_tokens": 16},
        "seed": seed,
        "stage_seed": 0,
        "run": {"experiment": experiment, "scheme": scheme, "scale": "cpu"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    state = "complete" if finished else "running"
    manifest = {
        "key": key,
        "state": state,
        "failed": failed,
        "identity": identity or {"inputs": {"seed": seed}},
        "git_commit": "c" * 40,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if finished:
        results = {
            "config_hash": key,
            "experiment": experiment,
            "scheme": scheme,
            "names": {name: part["name"] for name, part in names.items()},
            "seeds": {"seed": seed, "stage_seed": 0},
            "status": "complete",
            "steps": len(rewards),
            "scale": "cpu",
            "git_commit": "c" * 40,
            "metrics": {},
            "evaluation": {},
        }
        (folder / "results.json").write_text(json.dumps(results))
    return folder

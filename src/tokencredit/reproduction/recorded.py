"""What a run folder, or a committed cell, says of a run: how it was made, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tokencredit import config as configuration
from tokencredit.composing.chosen import composed
from tokencredit.config import Config
from tokencredit.errors import UserError, require
from tokencredit.papers.cells import COLUMNS
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import csv_rows, read_json, reading
from tokencredit.store.run_folder import CONFIG, FAILED, METRICS, RunFolder

Row = Mapping[str, object]
SCORE: Final = {"cell": "mean_reward", "run": "score/mean"}
"""The column with the mean score of a step."""
DEVIATION: Final = "score/std"
"""The metric with the spread of a step's scores."""
FIXED: Final = frozenset(COLUMNS) - {"mean_reward", "kl", "value_loss"} | {"step"}
"""Columns that hold no measurement."""
ORACLE: Final = "policy/oracle"
"""The measure on held-out prompts that is compared on another machine."""
CHOSEN: Final = ("experiment", "scale")
"""Choices of a cell that are kept beside its overrides, too."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides the last bits of a result."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the package, of Python, and of the libraries that compute."""
    processor: str = ""
    """Its name and instruction sets; empty where that is not known."""
    arithmetic: Mapping[str, object] = field(default_factory=dict)
    """Threads, processes, and what else changes the order of sums."""

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """That of a manifest, or of a cell's provenance, as far as it says."""
        names = ("environment", "processor", "arithmetic")
        versions, processor, arithmetic = (kept.get(name) for name in names)
        return cls(versions or {}, processor or "", arithmetic or {})


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run as it was recorded."""

    path: Path
    kind: str
    """run, or cell."""
    key: str
    status: str
    steps: int
    """Steps logged."""
    rows: Sequence[Row]
    """One a step: the lines of a cell's CSV as texts, or those of a run's metrics.jsonl."""
    identity: Mapping[str, object]
    """What the key is a hash of."""
    machine: Machine
    commit: str
    data: Mapping[str, str]
    """Hashes of the records that each part of the run reads; `rl` are its prompts."""
    weights: Mapping[str, str]
    """Hashes of what the stages before it made, by role."""
    evaluation: Mapping[str, Mapping[str, float]]
    """Measures on held-out prompts: mean, se, n."""
    prompts: Sequence[tuple[object, object]]
    """Of a run folder: step and prompt of every sample, row and prompt of the evaluation."""
    seconds: float | None
    """Of the whole run, the stages before it aside."""

    @property
    def score(self) -> str:
        """The column with the mean score of a step."""
        return SCORE[self.kind]


def read_recorded(path: Path) -> Recorded:
    """The run in a run folder, or the committed cell whose CSV or JSON file `path` is.

    Raises `UserError` where it is neither, or holds no identity to compare.
    """
    found = _read_run(path) if path.is_dir() else _read_cell(path)
    require(bool(found.identity), str(path), "", "does not say how it was made: has no identity")
    return found


def _read_cell(path: Path) -> Recorded:
    beside, table = path.with_suffix(".json"), path.with_suffix(".csv")
    for file in (beside, table):
        if path.suffix not in {".json", ".csv"} or not file.is_file():
            raise UserError(
                f"{path}: is no run folder and no cell; name a run's folder, or the CSV or JSON "
                "file of a committed cell, which lie side by side"
            )
    record = read_json(beside, config_hash=str, provenance=dict, steps=int)
    with reading(beside):
        made = record["provenance"]
        parents = (made.get("parents") or {}).items()
        machine = Machine.of(made)
        return Recorded(
            path=path,
            kind="cell",
            key=record["config_hash"],
            status=record["status"],
            steps=record["steps"],
            rows=[row for _, row in csv_rows(table)],
            identity=made.get("identity") or {},
            machine=machine,
            commit=str(record.get("git_commit") or ""),
            data=made.get("fingerprints") or {},
            weights={role: found["sha256"] for role, found in parents if found.get("sha256")},
            evaluation=record.get("evaluation") or {},
            prompts=(),
            seconds=record.get("wall_seconds"),
        )


def ratings_of_seeds(cell: Recorded) -> list[float]:
    """The oracle's ratings at the end of a cell and of those beside it that differ in seeds alone.

    None of a run folder, beside which there are no cells.
    """
    found: list[float] = []
    for other in sorted(cell.path.parent.glob("*.json")) if cell.kind == "cell" else ():
        record = read_json(other)
        made = (record.get("provenance") or {}).get("identity") or {}
        rating = (record.get("evaluation") or {}).get(ORACLE)
        if made and rating and _but_seeds(made) == _but_seeds(cell.identity):
            found.append(float(rating["mean"]))
    return found


def _but_seeds(identity: Mapping[str, object]) -> dict[str, object]:
    """What a run is made by, without the seed, and without its stages, whose seed is another's."""
    inputs, parents = (identity.get(name, {}) for name in ("inputs", "parents"))
    assert isinstance(inputs, Mapping)
    assert isinstance(parents, Mapping)
    kept = {name: value for name, value in inputs.items() if name != "seed"}
    return {**identity, "inputs": kept, "parents": sorted(parents)}


def _read_run(path: Path) -> Recorded:
    run = RunFolder(path)
    if not (path / METRICS).is_file() or not (path / CONFIG).is_file():
        raise UserError(f"{path}: is no folder of an RL run (it has no {METRICS} or no {CONFIG})")
    manifest, record = run.manifest(), run.record()
    with reading(path / MANIFEST):
        machine = Machine.of(manifest)
        said = [(row["step"], row["prompt"]) for row in run.samples]
        held_out = [(row["row"], row["prompt"]) for row in run.evaluation]
        return Recorded(
            path=path,
            kind="run",
            key=manifest["key"],
            status=record["status"],
            steps=record["steps"],
            rows=run.metrics[: record["steps"]],
            identity=manifest.get("identity") or {},
            machine=machine,
            commit=str(manifest.get("git_commit") or ""),
            data=manifest.get("fingerprints") or {},
            weights=manifest.get("weights") or {},
            evaluation=record.get("evaluation") or {},
            prompts=[*said, *held_out],
            seconds=record.get("wall_seconds"),
        )


def recorded_config(recorded: Recorded) -> Config:
    """The configuration of the record, with as many steps as it has, to be run elsewhere.

    Of a run folder it is its config.yaml; of a cell it is composed by today's conf/ from the
    choices that are recorded, as `train` would.
    """
    if recorded.kind == "run":
        config = configuration.read(recorded.path / CONFIG)
    else:
        config = _composed(recorded.path.with_suffix(".json"))
    if recorded.status != FAILED:
        # Not composed: the horizon of the KL coefficient is filled in from the steps of before.
        config.steps = recorded.steps
    return config


def _composed(path: Path) -> Config:
    record = read_json(path, provenance=dict)
    with reading(path):
        choices = cell_choices(record)
        config = composed(choices)
        config.run.experiment, config.run.scale = record["experiment"], record.get("scale")
        config.run.scheme = record["scheme"]
    return config


def cell_choices(record: Mapping[str, object]) -> list[str]:
    """The overrides that compose a cell: those recorded, and what they lack of its experiment,
    scale, and seeds, which stand beside them."""
    made, seeds = record["provenance"], record["seeds"]
    assert isinstance(made, Mapping)
    assert isinstance(seeds, Mapping)
    choices = [str(choice) for choice in made.get("overrides") or ()]
    given = {choice.lstrip("+~").partition("=")[0] for choice in choices}
    chosen = [f"{name}={record[name]}" for name in CHOSEN if name not in given and record.get(name)]
    numbers = [f"{name}={value}" for name, value in seeds.items() if name not in given]
    return [*choices, *chosen, *numbers]

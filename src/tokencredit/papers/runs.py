"""Logged runs as tables and figures read them: from run CSVs, and from folders of runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tokencredit.errors import UserError
from tokencredit.papers.cells import COLUMNS, METRICS, NOTED, on_the_way
from tokencredit.papers.provenance import Made, made_of
from tokencredit.store import run_folder
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import REMEDY, Damaged, csv_rows, read_json, reading
from tokencredit.store.pilots import without_pilots
from tokencredit.store.run_folder import COMPLETE, CONFIG, RESULTS, RUNNING, STATUSES, RunFolder
from tokencredit.store.sheets import as_written

REQUIRED: Final = (
    "task", "method", "beta", "min_new_tokens", "max_new_tokens", "run", "step", "mean_reward",
)  # fmt: skip
ALIASES: Final = {
    "rlhf": "sparse",
    "abcde": "abc_d",
    "abcde2": "abc_d2",
    "abc_authors": "abc",
    "abc_d_authors": "abc_d",
    "abc_d2_authors": "abc_d2",
}
"""Names of methods in the authors' logs, and of their variants, which no experiment mixes."""


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What runs of one kind share, and what tables have a row for."""

    task: str
    method: str
    beta: float | None
    lengths: tuple[int, int]
    """Response tokens, half-open."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run is from, as far as that is known."""

    path: Path
    key: str = ""
    scale: str = ""
    model: str = ""
    commit: str = ""
    made: Made = field(default_factory=Made)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Measures on held-out prompts."""
    scorers: Mapping[str, Any] = field(default_factory=dict)
    """Accuracy of reward model and oracle at the length of responses, by role."""
    scored: int | None = None
    """Responses that were scored to train it; None where that is unknown."""
    on_the_way: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Means on held-out prompts during training, by column; empty without evaluations there."""
    wall_seconds: float | None = None
    spent: Mapping[str, float | None] = field(default_factory=dict)
    """What training has spent (`rl.compute.spent`); empty where that was not kept."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of the data, by what they are for."""
    processor: str = ""
    """What computed it."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """One run: its setting, its number among those of the setting, and its curves from step 0."""

    setting: Setting
    run: int
    status: str
    columns: Mapping[str, Sequence[float]] = field(repr=False)
    """By name of the CSV's column; one that was not logged is missing."""
    origin: Origin = field(repr=False)

    def __len__(self) -> int:
        """Steps logged."""
        return len(self.columns["mean_reward"])

    @property
    def stepless(self) -> bool:
        """Whether it is complete without a step: a model that learnt without rollouts."""
        return self.status == COMPLETE and len(self) == 0

    def first(self, points: int, column: str = "mean_reward") -> Sequence[float] | None:
        """Exactly the first `points` values; None if there are fewer, or one is no number."""
        values = self.columns.get(column, ())[:points]
        usable = len(values) == points and all(map(math.isfinite, values))
        return values if usable else None


def read_runs(path: Path) -> list[LoggedRun]:
    """The runs of a run CSV, a folder of such CSVs, a runs folder, or one run's folder; a tuning's
    pilot runs are left out."""
    if path.is_file():
        return read_csv(path)
    if not path.is_dir():
        raise UserError(f"--runs {path}: there is no such file or folder")
    folders = without_pilots((file.parent for file in path.rglob(run_folder.METRICS)), path)
    found = [run for folder in folders for run in _read_folder(folder)]
    for file in sorted(path.rglob("*.csv")):
        if holds_runs(file):
            found += read_csv(file)
    if not found:
        raise UserError(
            f"--runs {path}: holds no runs; name a CSV with the columns {', '.join(REQUIRED)}, "
            "a folder of such files, or a folder of runs"
        )
    return found


def holds_runs(path: Path) -> bool:
    """Whether a CSV has the columns of runs; others are of something else."""
    return _header(path).keys() >= set(REQUIRED)


def read_csv(path: Path) -> list[LoggedRun]:
    """The runs of one CSV, in the order in which they begin."""
    header = _header(path)
    missing = set(REQUIRED) - header.keys()
    if missing:
        raise UserError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
    _check_end(path, list(header))
    origin = _origin(path)
    groups: dict[tuple[Setting, int], list[dict[str, str]]] = {}
    for line, row in csv_rows(path):
        _check_whole(row, f"{path}, line {line}")
        try:
            key = (_setting(row), int(row["run"]))
            row["step"] = row["step"] and str(int(row["step"]))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {line}: {error}") from None
        groups.setdefault(key, []).append(row)
    return [_from_rows(path, *key, rows, origin) for key, rows in groups.items()]


def _check_whole(row: Mapping[str, Any], place: str) -> None:
    """Raise where a line has more or fewer fields than the header, or an unknown status."""
    short = [name for name, value in row.items() if value is None]
    if short or not all(isinstance(name, str) for name in row):  # what is over lies under None
        what = f"ends before {short[0]}" if short else "has more fields than the header"
        raise Damaged(f"{place}: {what}; the file was cut off or edited: {REMEDY}")
    status = row.get("status")
    if status and status not in STATUSES:
        known = ", ".join(STATUSES)
        raise Damaged(f"{place}: status = {status!r} is none of {known}; was it cut off? {REMEDY}")


def _check_end(path: Path, header: Sequence[str]) -> None:
    """Raise where a CSV that we wrote does not end with a line ending: a number may be cut."""
    if tuple(header)[: len(COLUMNS)] == COLUMNS and not path.read_bytes().endswith(b"\n"):
        raise Damaged(f"{path}: its last line was cut off; {REMEDY}")


def _from_rows(
    path: Path, setting: Setting, run: int, rows: list[dict[str, str]], origin: Origin
) -> LoggedRun:
    status = rows[-1].get("status") or COMPLETE
    if [row["step"] for row in rows] == [""]:  # it failed before its first step, or has none
        return LoggedRun(setting, run, status, {"mean_reward": []}, origin)
    name = f"{path}: {setting.task}, {setting.method}, run {run}"
    try:
        rows = sorted(rows, key=lambda row: int(row["step"]))
        _check_steps([int(row["step"]) for row in rows], name)
        columns = {
            column: [float(row[column]) for row in rows]
            for column in (*METRICS, *NOTED)
            if all(row.get(column) for row in rows)
        }
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if "mean_reward" not in columns:
        raise UserError(f"{name}: mean_reward is empty at some step")
    return LoggedRun(setting, run, status, columns, origin)


def _check_steps(steps: Sequence[int], name: str) -> None:
    for expected, step in enumerate(steps):
        if step != expected:
            what = "is there twice" if step < expected else f"follows {expected - 1}"
            raise UserError(f"{name}: step {step} {what}; steps count from 0, each once")


def _setting(row: Mapping[str, str]) -> Setting:
    method = as_written(row["method"]).strip()
    beta = float(row["beta"]) if row["beta"] not in {"", None} else None
    lengths = (int(row["min_new_tokens"]), int(row["max_new_tokens"]))
    return Setting(as_written(row["task"]).strip(), ALIASES.get(method, method), beta, lengths)


def _header(path: Path) -> dict[str, int]:
    """The columns of a CSV, by place."""
    with reading(path), path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file), [])
    return {name: place for place, name in enumerate(names)}


def _origin(path: Path) -> Origin:
    """What the JSON file beside a committed cell says."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return Origin(path)
    record = read_json(beside)
    with reading(beside):
        kept = {**record.get("provenance", {}), "seeds": record.get("seeds")}
        return _origin_of(path, {**kept, **record}, made_of(kept))


def _origin_of(path: Path, record: Mapping[str, Any], made: Made) -> Origin:
    """From the record of a run, with what is kept of how it was made."""
    return Origin(
        path=path,
        key=str(record.get("config_hash") or ""),
        scale=str(record.get("scale") or "") if record.get("experiment") else "",
        model=str(record.get("names", {}).get("model") or ""),
        commit=str(record.get("git_commit") or ""),
        made=made,
        evaluation=record.get("evaluation") or {},
        scorers=record.get("scorers") or {},
        scored=record.get("scored_samples"),
        on_the_way=record.get("on_the_way") or {},
        wall_seconds=record.get("wall_seconds"),
        spent=record.get("spent") or {},
        fingerprints=record.get("fingerprints") or {},
        processor=str(record.get("processor") or ""),
    )


def _read_folder(folder: Path) -> list[LoggedRun]:
    """The run in a run folder; none if it has logged nothing yet, or was not made by a run."""
    found = RunFolder(folder)
    if not found.metrics or not (folder / CONFIG).is_file():
        return []
    found.check_exports(run_folder.METRICS, RESULTS)
    record, config = found.record(), found.config
    rows = found.metrics[: record["steps"]]
    if record.get("status") == COMPLETE and len(rows) < record["steps"]:
        lost = f"has {len(rows)} of the {record['steps']} steps of a complete run"
        raise Damaged(f"{folder / run_folder.METRICS}: {lost}; {REMEDY}")
    _check_steps([row["step"] for row in rows], str(folder))
    with reading(folder / MANIFEST):
        manifest = found.manifest()
        kept = {**manifest, **record, "on_the_way": on_the_way(found)}
        origin = _origin_of(folder, kept, made_of(manifest))
    with reading(folder / CONFIG):
        setting = _setting_of(record, config)
    run = LoggedRun(
        setting,
        record["seeds"]["seed"],
        record.get("status", RUNNING),
        {
            column: [float(row[metric]) for row in rows]
            for column, metric in {**METRICS, **NOTED}.items()
            if all(metric in row for row in rows)
        },
        origin,
    )
    return [run]


def _setting_of(record: Mapping[str, Any], config: Mapping[str, Any]) -> Setting:
    task = str(record["experiment"] or config["dataset"]["name"]).rpartition("/")[2]
    beta = config["reward_scheme"].get("beta")
    lengths = (config["rollout"]["min_new_tokens"], config["rollout"]["max_new_tokens"])
    method = ALIASES.get(record["scheme"], record["scheme"])
    return Setting(task, method, None if beta is None else float(beta), lengths)

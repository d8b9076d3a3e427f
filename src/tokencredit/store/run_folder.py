"""The folder of a run: who may write it, what is in it, how far it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from tokencredit.canonical import differences, file_sha256
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.store.artifacts import MANIFEST, environment, make_folder, processor
from tokencredit.store.files import (
    check_keys,
    read_json,
    read_yaml,
    reading,
    remove_abandoned,
    write_json,
)
from tokencredit.store.jsonl import read_jsonl, read_steps

LOCK_SECONDS = 10.0
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
SAMPLES = "samples.jsonl"
EVALUATION = "evaluation.jsonl"
RESULTS = "results.json"
REPORT = "report.html"
LOCK = ".lock"
FILES = (MANIFEST, CONFIG, RESULTS, EVALUATION, METRICS, TIMINGS, SAMPLES, REPORT)
FOLDERS = ("policy", "value", "policy_best", "value_best", "checkpoints", "figures", "code")
COMMIT = "TOKENCREDIT_COMMIT"


EXPORTS = ("policy", "value", "policy_best", "value_best")
"""Folders with models."""
OUTCOME = (METRICS, TIMINGS, SAMPLES, EVALUATION, RESULTS)
"""What it logged and came to."""
ONLY_HERE = ("policy_best/", "value_best/", METRICS, TIMINGS, SAMPLES)
"""What no checkpoint holds."""

COMPLETE: Final = "complete"
FAILED: Final = "failed"
RUNNING: Final = "running"
STATUSES: Final = (COMPLETE, FAILED, RUNNING)
"""What the record of a run says of how it ended."""
READ: Final = {"config_hash": str, "seeds": dict, "steps": int, "status": str}
"""Keys of results.json that are read, and their types."""
LATER: Final = {"offload": "none"}  # of the hardware, as they were in runs from before


class State(str, Enum):
    """How far a run is."""

    absent = "absent"
    running = "running"
    trained = "trained"
    complete = "complete"


class RunFolder:
    """One run's folder. Its manifest names the key it belongs to and is written last of all.

    Its files are read when asked for, and any of them may be missing.
    """

    def __init__(self, path: str | Path) -> None:
        """The run in `path`, which need not exist yet."""
        self.path = Path(path)

    @classmethod
    def logged(cls, path: str | Path) -> RunFolder:
        """The run in `path`, to be reported; raises UserError where it has logged no step, or its
        logs have changed since it was complete."""
        run = cls(path)
        run.check_exports(*OUTCOME)
        if not run.metrics:
            raise UserError(f"{run.path}: no step in {METRICS}; name the folder of a run")
        return run

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, as they were when they were first asked for."""
        return read_steps(self.path / METRICS)

    @property
    def timings(self) -> list[dict[str, Any]]:
        """Rows of timings.jsonl."""
        return read_steps(self.path / TIMINGS)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Rows of samples.jsonl."""
        return self._rows(SAMPLES)

    @property
    def evaluation(self) -> list[dict[str, Any]]:
        """Rows of evaluation.jsonl, empty before the run has been evaluated."""
        return self._rows(EVALUATION)

    @property
    def results(self) -> dict[str, Any]:
        """results.json, empty before the run is complete."""
        file = self.path / RESULTS
        return read_json(file) if file.exists() else {}

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml, as it was written."""
        return read_yaml(self.path / CONFIG)

    @property
    def scheme(self) -> str:
        """Name of the reward scheme; before there are results, that of the folder's parent."""
        return str(self.results.get("scheme") or self.path.resolve().parent.name)

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the steps at which `metric` was logged, and its values there."""
        rows = [row for row in self.metrics if metric in row]
        return [row["step"] for row in rows], [row[metric] for row in rows]

    def record(self) -> dict[str, Any]:
        """results.json of a complete run; of one that has none, what is known all the same."""
        results, manifest = self.results, self.manifest()
        failed = manifest.get("failed")
        if results and not failed:
            return check_keys(results, self.path / RESULTS, READ)
        check_keys(manifest, self.path / MANIFEST, {"key": str})
        config = self.config
        with reading(self.path / CONFIG):
            names = config["run"]
            return {
                "schema_version": 1,
                "config_hash": manifest["key"],
                "experiment": names["experiment"],
                "scheme": names["scheme"],
                "names": {name: config[name]["name"] for name in ("model", "dataset", "hardware")},
                "seeds": {"seed": config["seed"], "stage_seed": config["stage_seed"]},
                "status": FAILED if failed else RUNNING,
                "error": failed,
                "steps": len(self.metrics),
                "scale": names["scale"],
                "git_commit": manifest.get("git_commit"),
            }

    def manifest(self) -> dict[str, Any]:
        """What the manifest says; empty if there is none, `Damaged` if it is no manifest."""
        path = self.path / MANIFEST
        if not path.is_file():
            return {}
        with reading(path):
            found = read_json(path, key=str)
            for name in ("identity", "parents"):
                check_keys(found.get(name, {}), path, {})
            exports = found.get("exports")  # None before the run has ended
            check_keys({} if exports is None else exports, path, {})
            State(found["state"])
        return found

    def state(self) -> State:
        """How far the run is."""
        return State(self.manifest().get("state", State.absent.value))

    def rows(self) -> int:
        """Steps logged so far."""
        return len(self._rows(METRICS))

    def done(self, key: str, steps: int) -> bool:
        """Whether the run of that key is complete with at least `steps` steps, and undamaged."""
        manifest = self.manifest()
        return (
            manifest.get("key") == key
            and manifest.get("state") == State.complete.value
            and self.damage() is None
            and self.rows() >= steps
        )

    def damage(self, *parts: str) -> str | None:
        """What is wrong with what the run left when it was complete; None before, and if nothing.

        With `parts`, beginnings of names, only those files are looked at.
        """
        expected: dict[str, str] = self.manifest().get("exports") or {}
        for name, checksum in expected.items():
            if parts and not name.startswith(parts):
                continue
            path = self.path / name
            if not path.is_file():
                return f"{name} is missing"
            stat = path.stat()
            if _sha256(path, (stat.st_size, stat.st_mtime_ns)) != checksum:
                return f"{name} has changed"
        return None

    def check_exports(self, *parts: str) -> None:
        """Raise if one of these files (`damage`) is not what the run left."""
        damage = self.damage(*parts)
        if damage is not None:
            raise UserError(
                f"{self.path}: {damage} since the run was complete; run its `tokencredit train` "
                "command again, which makes it anew or says what to do"
            )

    def check_irreplaceable(self) -> None:
        """Raise if a file is damaged that cannot be made again from the last checkpoint."""
        damage = self.damage(*ONLY_HERE)
        if damage is not None:
            raise UserError(
                f"{self.path}: {damage} since the run was complete, and its checkpoint does not "
                f"hold that; restore the file, or delete {self.path} to run again from the first "
                "step"
            )

    def check_owner(self, key: str, identity: Mapping[str, object]) -> None:
        """Raise unless the folder is new or belongs to `key`."""
        manifest = self.manifest()
        if manifest and manifest["key"] != key:
            different = "; ".join(differences(manifest.get("identity", {}), identity)[:8])
            raise UserError(
                f"run_dir = {str(self.path)!r}: holds a run of another configuration "
                f"({different}); choose another folder, or delete this one"
            )
        if not manifest and self.path.is_dir():
            strangers = sorted(p.name for p in self.path.iterdir() if not _ours(p.name))
            if strangers:
                raise UserError(
                    f"run_dir = {str(self.path)!r}: holds files that are no run "
                    f"({', '.join(strangers[:4])}); "
                    "choose an empty folder"
                )

    def check_kinds(self) -> None:
        """Raise where a folder lies in the place of one of the run's files, or the reverse."""
        for name in (*FILES, LOCK):
            if (self.path / name).is_dir():
                raise UserError(f"{self.path / name}: a file is wanted there; move the folder away")
        for name in FOLDERS:
            path = self.path / name
            if path.exists() and not path.is_dir():
                raise UserError(f"{path}: a folder is wanted there; move the file away")

    def check_arithmetic(self, now: Mapping[str, object], inexact: bool) -> dict[str, object]:
        """The hardware settings that the run did not begin with, as they were; raises if there are
        any, unless `inexact` allows them."""
        before = {**LATER, **self.manifest().get("arithmetic", now)}
        other = {name: before.get(name) for name in now if before.get(name) != now[name]}
        if other and not inexact:
            name, began = next(iter(other.items()))
            raise UserError(
                f"hardware.{name} = {now[name]}: the run in {self.path} began with {began}, and "
                f"another value changes the last bits; set hardware.{name}={began}, or "
                "run.resume_inexact=true to go on all the same"
            )
        return other

    def mark_inexact(self, step: int, now: Mapping[str, object]) -> None:
        """Note, and say, from which step on the run has other last bits, and what was before."""
        if before := self.check_arithmetic(now, inexact=True):
            changes = ", ".join(f"{name} {began} → {now[name]}" for name, began in before.items())
            say(f"{self.path}: from step {step} on inexact ({changes}), as its manifest notes")
            noted = [*self.manifest().get("inexact", ()), {"step": step, "before": before}]
            self.write(self.state(), inexact=noted)

    def write(self, state: State, **entries: Any) -> None:
        """Set the state and add entries to the manifest."""
        base = {
            "schema_version": 1,
            "environment": environment(),
            "processor": processor(),
            "git_commit": git_commit(),
        }
        write_json(
            self.path / MANIFEST, {**base, **self.manifest(), **entries, "state": state.value}
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; another process that has it gets ten seconds to end."""
        make_folder(self.path)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise UserError(
                f"run_dir = {str(self.path)!r}: another process is writing this run; "
                "wait for it, or end it"
            ) from None
        try:
            remove_abandoned(self.path)
            yield
        finally:
            lock.release()

    def _rows(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        return read_jsonl(file) if file.is_file() else []


def existing(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the paths of `names` in `folder` that exist."""
    return [folder / name for name in names if (folder / name).exists()]


def hash_exports(folder: Path) -> dict[str, str]:
    """The sha256 of every file of models and results in the folder of a run, by relative path.

    Figures and the report are drawn again at any time, so they are left out.
    """
    files = [path for name in EXPORTS for path in (folder / name).rglob("*") if path.is_file()]
    files += [folder / name for name in OUTCOME if (folder / name).is_file()]
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(files)}


@lru_cache(maxsize=1024)
def _sha256(path: Path, _stamp: tuple[int, int]) -> str:
    """The sha256 of a file, computed once in this process for each size and time of change."""
    return file_sha256(path)


def _ours(name: str) -> bool:
    """The lock, or what a process that was killed while writing left."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


def git_commit() -> str | None:
    """The commit of the source tree this code lies in, or else what $TOKENCREDIT_COMMIT says.

    The latter is for copies of a tree without its history; an installed package has None.
    """
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT)
    return answer.stdout.strip() or None

"""A run folder as the reports read it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokencredit.errors import UserError
from tokencredit.store import run_folder
from tokencredit.store.files import read_json
from tokencredit.store.jsonl import read_jsonl, read_steps


class RunFolder:
    """The files of a run, read when asked for; all but metrics.jsonl may be missing."""

    def __init__(self, path: str | Path) -> None:
        """Look at `path`; raises UserError where no run has logged a step, or its logs have changed
        since it was complete."""
        self.path = Path(path)
        run_folder.RunFolder(self.path).check_exports(*run_folder.RESULTS)
        file = self.path / "metrics.jsonl"
        self.metrics = read_steps(file)
        if not self.metrics:
            raise UserError(f"{self.path}: no step in metrics.jsonl; name the folder of a run")

    @property
    def timings(self) -> list[dict[str, Any]]:
        """Rows of timings.jsonl."""
        return read_steps(self.path / "timings.jsonl")

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Rows of samples.jsonl."""
        file = self.path / "samples.jsonl"
        return read_jsonl(file) if file.exists() else []

    @property
    def evaluation(self) -> list[dict[str, Any]]:
        """Rows of evaluation.jsonl, empty before the run has been evaluated."""
        file = self.path / "evaluation.jsonl"
        return read_jsonl(file) if file.exists() else []

    @property
    def results(self) -> dict[str, Any]:
        """results.json, empty before the run is complete."""
        return self._object("results.json")

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json."""
        return self._object("manifest.json")

    @property
    def scheme(self) -> str:
        """Name of the reward scheme; before there are results, that of the folder's parent."""
        return str(self.results.get("scheme") or self.path.resolve().parent.name)

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the steps at which `metric` was logged, and its values there."""
        rows = [row for row in self.metrics if metric in row]
        return [row["step"] for row in rows], [row[metric] for row in rows]

    def _object(self, name: str) -> dict[str, Any]:
        file = self.path / name
        return read_json(file) if file.exists() else {}


def existing(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the paths of `names` in `folder` that exist."""
    return [folder / name for name in names if (folder / name).exists()]

"""The one object that a training loop tells what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tokencredit.errors import UserError
from tokencredit.store.files import reading
from tokencredit.store.jsonl import JsonlWriter, read_jsonl, read_steps
from tokencredit.store.run_folder import METRICS, SAMPLES, TIMINGS
from tokencredit.tracking.progress import Progress
from tokencredit.tracking.tracking import Tracking
from tokencredit.tracking.wandb_mirror import WandbMirror

FILES: Final = (METRICS, TIMINGS, SAMPLES)


@dataclass(slots=True)
class Tracker:
    """The log of a run: three JSONL files, their W&B mirror, and the progress display.

    Opening it cuts the files to the offsets of `resume_from` (a `state()` kept in a checkpoint;
    None or a missing file name means zero), so that each step stands in them once whatever
    happened before. Every step from 0 is logged once, in order.
    """

    run_dir: Path
    tracking: Tracking
    run_id: str
    name: str
    config: Mapping[str, Any]
    resume_from: Mapping[str, int] | None
    total_steps: int
    start_step: int
    _files: dict[str, JsonlWriter] = field(init=False, default_factory=dict)
    _mirror: WandbMirror = field(init=False)
    _progress: Progress = field(init=False)
    _next: int = field(init=False)

    def __post_init__(self) -> None:
        """Cut and open the files, then the mirror, then the display.

        Raises UserError where the files do not end just before `start_step`.
        """
        self.run_dir = Path(self.run_dir)
        offsets = self.resume_from or {}
        for name in FILES:
            JsonlWriter.truncate(self.run_dir / name, offsets.get(name, 0))
        self._next = self._logged_steps()
        if self._next != self.start_step:
            raise UserError(
                f"{self.run_dir / METRICS} = {self._next} steps: the checkpoint continues at step "
                f"{self.start_step}; delete the run folder and start again"
            )
        self._mirror = WandbMirror.open(
            self.tracking, self.run_dir, self.run_id, self.name, self.config, self._history()
        )
        self._files = {name: JsonlWriter(self.run_dir / name) for name in FILES}
        self._progress = Progress(self.total_steps, self.start_step, self.name)
        self._progress.__enter__()

    def log(self, step: int, metrics: Mapping[str, float], timings: Mapping[str, float]) -> None:
        """Log a step: what is deterministic in `metrics`, seconds and bytes in `timings`.

        Raises ValueError for a step out of turn or a number that is not finite.
        """
        if step != self._next:
            raise ValueError(f"step = {step}: the next step to log is {self._next}")
        self._files[METRICS].write({"step": step, **metrics})
        self._files[TIMINGS].write({"step": step, **timings})
        self._next = step + 1
        everything = {**metrics, **timings}
        self._mirror.log(step, everything)
        self._progress.update(step, everything)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log sample rows (dataset row, prompt, response, score, and columns of one value a token).

        A step's samples are logged right before or right after its metrics.
        """
        for row in rows:
            self._files[SAMPLES].write(row)
        self._mirror.samples(step, rows)

    def curves(self, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Mirror the loss curves (`step`, `loss`) of the stages before this one, by name."""
        self._mirror.curves(self._next, curves)

    def state(self) -> dict[str, int]:
        """Return the length in bytes of each file, once these bytes are on the disk."""
        for file in self._files.values():
            file.flush()
        return {name: file.offset for name, file in self._files.items()}

    def close(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Close display, files, and mirror; `summary` becomes W&B's. Closing twice is allowed."""
        self._progress.close()
        for file in self._files.values():
            file.close()
        self._mirror.finish(summary, exit_code)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close without a summary; after an error, tell W&B that the run failed."""
        self.close({}, exit_code=0 if kind is None else 1)

    def _logged_steps(self) -> int:
        rows = read_steps(self.run_dir / METRICS)
        return rows[-1]["step"] + 1 if rows else 0

    def _history(self) -> list[dict[str, Any]]:
        """Return what the files hold, one row a step."""
        steps: dict[int, dict[str, Any]] = {}
        for row in [*read_steps(self.run_dir / METRICS), *read_steps(self.run_dir / TIMINGS)]:
            steps.setdefault(row["step"], {}).update(row)
        samples = self.run_dir / SAMPLES
        with reading(samples):
            for row in read_jsonl(samples) if samples.exists() else []:
                step = steps.setdefault(row["step"], {"step": row["step"]})
                step.setdefault("samples", []).append(row)
        return [steps[step] for step in sorted(steps)]

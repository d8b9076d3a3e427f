"""Complete or absent: the state from which a run continues."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokencredit.canonical import folder_sha256
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.rl.engine import Engine
from tokencredit.rl.update import WeightsNotFinite
from tokencredit.store.artifacts import MANIFEST, find_damage
from tokencredit.store.files import naming, publish, read_json, reading, remove, write_json

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, besides its weights."""

    next_step: int
    state: dict[str, float]
    """The algorithm's: coefficients and running statistics."""
    offsets: dict[str, int]
    """Length in bytes of each log file when the checkpoint was written."""
    best: dict[str, Any] | None = None
    """Step and score of the best held-out evaluation so far."""


class Checkpoints:
    """The folder `checkpoints/` of a run. Only the newest complete checkpoint is kept."""

    def __init__(self, run_folder: Path) -> None:
        """The checkpoints of the run in `run_folder`."""
        self.root = run_folder / "checkpoints"

    def save(self, engine: Engine, progress: Progress) -> None:
        """Write a checkpoint beside the older ones, then remove those; called by every process.

        Raises WeightsNotFinite, and keeps what is there, if it could not go on from these weights.
        """
        final = self.root / f"step-{progress.next_step:06d}"
        tensor = engine.first_not_finite()
        if tensor is not None:
            raise WeightsNotFinite(tensor, f"checkpoint {final.name}")
        partial = final.with_suffix(".partial")
        if engine.world.is_main:
            remove(partial)
            partial.mkdir(parents=True)
        engine.world.wait()
        try:
            with naming(partial):
                engine.save(partial)
            engine.world.wait()
            if engine.world.is_main:
                write_json(partial / STATE, asdict(progress))
                sums = folder_sha256(partial)
                write_json(partial / MANIFEST, {"schema_version": 2, "sha256": sums})
                publish(partial, final)
        except BaseException:  # a full disk above all: half a checkpoint would keep it full
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if engine.world.is_main:
            for older in self.root.iterdir():
                if older != final:
                    shutil.rmtree(older, ignore_errors=True)
        engine.world.wait()

    def newest(self) -> Path | None:
        """The newest checkpoint that is complete and undamaged; None if there never was one.

        Raises UserError if there are only damaged ones: starting anew would lose the run.
        """
        damaged = ""
        for folder in sorted(self.root.glob("step-??????"), reverse=True):
            damage = find_damage(folder)
            if damage is None:
                return folder
            say(f"checkpoint {folder.name} is damaged ({damage}); is there an older one?")
            damaged = damaged or f"{folder}: {damage}"
        if damaged:
            raise UserError(
                f"{damaged}; no other checkpoint is left. Restore the file, or delete {self.root} "
                "to start the run from its first step"
            )
        return None

    @staticmethod
    def progress(folder: Path) -> Progress:
        """Where the run stood."""
        with reading(folder / STATE):
            return Progress(**read_json(folder / STATE))

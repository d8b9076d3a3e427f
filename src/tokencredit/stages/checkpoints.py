"""Complete or absent: the state from which a run continues."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokencredit.atomic import publish, read_json, write_json
from tokencredit.canonical import folder_sha256
from tokencredit.console import say
from tokencredit.engine import Engine
from tokencredit.store import MANIFEST, find_damage

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, besides its weights."""

    next_step: int
    kl_coef: float
    offsets: dict[str, int]
    """Length in bytes of each log file when the checkpoint was written."""


class Checkpoints:
    """The folder `checkpoints/` of a run. Only the newest complete checkpoint is kept."""

    def __init__(self, run_folder: Path) -> None:
        """The checkpoints of the run in `run_folder`."""
        self.root = run_folder / "checkpoints"

    def save(self, engine: Engine, progress: Progress) -> None:
        """Write a checkpoint beside the older ones, then remove those."""
        final = self.root / f"step-{progress.next_step:06d}"
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        engine.save(partial)
        state: dict[str, Any] = {
            "next_step": progress.next_step,
            "kl_coef": progress.kl_coef,
            "offsets": progress.offsets,
        }
        write_json(partial / STATE, state)
        write_json(partial / MANIFEST, {"schema_version": 1, "sha256": folder_sha256(partial)})
        publish(partial, final)
        for older in self.root.iterdir():
            if older != final:
                shutil.rmtree(older, ignore_errors=True)

    def newest(self) -> Path | None:
        """The newest checkpoint that is complete and undamaged."""
        for folder in sorted(self.root.glob("step-??????"), reverse=True):
            damage = find_damage(folder)
            if damage is None:
                return folder
            say(
                f"checkpoint {folder.name} is damaged ({damage}); an older one is used if there is "
                "one"
            )
        return None

    @staticmethod
    def progress(folder: Path) -> Progress:
        """Where the run stood."""
        state = read_json(folder / STATE)
        return Progress(state["next_step"], state["kl_coef"], state["offsets"])

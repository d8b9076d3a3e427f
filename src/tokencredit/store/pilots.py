"""Pilot runs among the folders of runs: they chose a method's settings, and nothing is compared
by them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokencredit.console import say
from tokencredit.store.files import read_yaml
from tokencredit.store.run_folder import CONFIG

PILOT: Final = "pilot"
"""The job type of a pilot run, here and at W&B."""


def without_pilots(folders: Iterable[Path], place: Path) -> list[Path]:
    """The run folders found below `place`, sorted, but those of pilot runs, and it is said how many
    these are. A pilot run that is `place` itself was asked for, and stays."""
    found = sorted(set(folders))
    kept = [folder for folder in found if folder == place or not is_pilot(folder)]
    if len(kept) < len(found):
        say(
            f"{place}: pilot runs left out: {len(found) - len(kept)}; they chose the settings "
            "(tokencredit tune)"
        )
    return kept


def is_pilot(folder: Path) -> bool:
    """Whether the run in this folder is one of a tuning's."""
    path = folder / CONFIG
    run = read_yaml(path).get("run") if path.is_file() else None
    return isinstance(run, dict) and run.get("job_type") == PILOT

"""Cells of a sweep: each runs like a single run; one that fails does not stop the others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.machine.stopping import request
from tokencredit.store.files import naming, reading
from tokencredit.store.jsonl import read_jsonl
from tokencredit.sweeps.objective import KEY, Measures, Unknown, listed

CELLS = "cells.jsonl"
MULTIRUN: Final = "multirun.yaml"
"""What Hydra writes of a sweep."""
FAILED: Final = "failed"
STOPPED: Final = "stopped"
STOP: Final = "STOP"
"""The file in a sweep's folder that asks all its cells to stop."""
MOST: Final = 8
"""Cells that are named of those that remain."""
KEPT: Final = 256
"""Cells that are kept composed, some 0.4 MB each."""
FOLDERS: list[Path] = []
"""The folder of the sweep that this process has started."""
ADAPTIVE: Final = ("optuna", "ax", "nevergrad")
"""Sweepers that choose each cell by the objective of those before."""
NO_BEST: Final = "No trials are completed yet"
"""What Optuna says at the end of a sweep in which every cell failed."""


class Remember(Callback):
    """Notes where Hydra puts the sweep, in the process that starts it."""

    def __init__(self, *, plan: bool = False) -> None:
        """With `plan` a sweeper writes to no storage: its cells are not run."""
        self.plan = plan

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra once, before the first cell and before it makes the sweeper."""
        ComposedOnce(GlobalHydra.instance().config_loader())
        FOLDERS.append(Path(config.hydra.sweep.dir))
        (FOLDERS[-1] / STOP).unlink(missing_ok=True)  # of a sweep in the same folder
        join(FOLDERS[-1])
        sweeper, name = config.hydra.sweeper, adaptive(config.hydra)
        if self.plan and sweeper.get("storage") is not None:
            with open_dict(config):
                sweeper.storage = None
        if self.plan and name:
            say(f"hydra/sweeper={name} chooses cells by the results of others; these are examples")
        elif name:
            for sense, objective in zip(
                directions(sweeper), listed(config.sweep.objective), strict=False
            ):
                say(f"sweep: {sense}s {objective}")


class ComposedOnce:
    """Gives a launcher the cells as its sweeper has composed them.

    Hydra's sweepers compose each cell to see that it can be, and let it go; a launcher in the same
    process then composes it again, which would be a third of a plan's time.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        """Take the place of `loader.load_sweep_config`."""
        self.compose = loader.load_sweep_config
        self.kept: dict[tuple[str, ...], DictConfig] = {}
        loader.load_sweep_config = self  # type: ignore[method-assign]

    def __call__(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The cell of these overrides. Who asks for the second time may change what it gets: it is
        handed out once."""
        cell = tuple(sweep_overrides)
        if cell in self.kept:
            return self.kept.pop(cell)
        composed = self.compose(master_config, sweep_overrides)
        if len(self.kept) < KEPT:
            self.kept[cell] = composed
        return composed

    def __getstate__(self) -> dict[str, object]:
        """Without the cells: a launcher's other processes get their own alone."""
        return {**self.__dict__, "kept": {}}


class Refused(BaseException):
    """Ends a sweep before its first cell: after an `Exception` Hydra starts the next cell."""

    def __init__(self, mistake: UserError) -> None:
        """`mistake` is what the command ends with."""
        super().__init__(mistake)
        self.mistake = mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the sweep, and what became of it."""

    number: int
    overrides: list[str]
    state: str
    """done, done before, done (committed), stopped, or failed."""
    folder: str = ""
    """Of its results, or its committed CSV."""
    seconds: float = 0.0
    error: str = ""
    measures: Measures = field(default_factory=dict)
    """The numbers that the closing table shows."""


def join(sweep: Path) -> None:
    """Let what asks this process to stop ask all cells of the sweep, and the other way round.

    They may run in processes that a launcher has started, on other machines too.
    """
    request().flag = sweep / STOP


def stop(sweep: Path) -> None:
    """Ask all cells of the sweep to stop."""
    sweep.mkdir(parents=True, exist_ok=True)
    with naming(sweep / STOP):
        (sweep / STOP).touch()


def remaining(sweep: Path) -> str:
    """Of a sweep that was asked to stop, the cells that are not done, in words; empty if none is.

    A sweeper that chooses cells by results has no list of them.
    """
    if not (sweep / STOP).exists():
        return ""
    (sweep / STOP).unlink()
    found = cells(sweep)
    config = OmegaConf.load(sweep / MULTIRUN) if (sweep / MULTIRUN).exists() else None
    if config is None or adaptive(config.hydra):
        return "the sweep is not complete"
    there = {cell.number for cell in found if cell.state != STOPPED}
    every = _every(config.hydra)
    shared = common(every)
    missing = [
        " ".join(override for override in own if override not in shared)
        for number, own in enumerate(every)
        if number not in there
    ]
    return f"{len(missing)} of {len(every)} cells remain ({some_of(missing)})" if missing else ""


def some_of(names: Sequence[str]) -> str:
    """The first few of several names, in a line."""
    return "; ".join(names[:MOST]) + "; …" * (len(names) > MOST)


def _every(settings: DictConfig) -> list[list[str]]:
    """The overrides of each cell, as Hydra's own sweeper orders them."""
    params = [f"{key}={value}" for key, value in (settings.sweeper.get("params") or {}).items()]
    loader = GlobalHydra.instance().config_loader() if GlobalHydra().is_initialized() else None
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides([*params, *settings.overrides.task])
    return list(BasicSweeper.split_arguments(parsed, None)[0])


def common(several: Sequence[Sequence[str]]) -> set[str]:
    """Overrides that all have, of several."""
    return set.intersection(*map(set, several)) if len(several) > 1 else set()


def record(sweep: Path, cell: Cell) -> None:
    """Append a finished cell to the sweep's list; safe for several processes at once."""
    line = (json.dumps(asdict(cell), ensure_ascii=False) + "\n").encode()
    sweep.mkdir(parents=True, exist_ok=True)
    with naming(sweep / CELLS):
        descriptor = os.open(sweep / CELLS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def forget(sweep: Path) -> None:
    """Remove the folder of a sweep in which no cell was started, and parents that are empty."""
    if (sweep / CELLS).exists() or not sweep.is_dir():
        return
    (sweep / STOP).unlink(missing_ok=True)
    (sweep / MULTIRUN).unlink(missing_ok=True)
    for folder in (sweep, sweep.parent, sweep.parent.parent):
        if any(folder.iterdir()):
            return
        folder.rmdir()


def group(sweep: Path, experiment: str | None) -> str:
    """The W&B group that all cells share: the experiment, which stays when a sweep is started
    again; else the sweep's folder, which is named by day and time."""
    return experiment or f"sweep {sweep.name}"


def cells(sweep: Path) -> list[Cell]:
    """Every cell recorded so far, by number."""
    path = sweep / CELLS
    if not path.is_file():
        return []
    with reading(path):
        return sorted((Cell(**row) for row in read_jsonl(path)), key=lambda cell: cell.number)


def adaptive(settings: Mapping[str, Any]) -> str:
    """The sweeper of Hydra's settings if it chooses cells by results; else an empty text."""
    target = str(settings["sweeper"]["_target_"])
    return next((name for name in ADAPTIVE if f"hydra_{name}_sweeper" in target), "")


def directions(sweeper: DictConfig) -> list[str]:
    """Whether each objective of a sweeper is minimised or maximised, as far as it has a setting."""
    found = sweeper.get("direction")
    several = list(found) if OmegaConf.is_list(found) else [found] if found is not None else []
    return [str(getattr(sense, "name", sense)) for sense in several]


def check_sweeper(settings: DictConfig, wanted: Sequence[str]) -> None:
    """Raise `Unknown` where the sweeper chooses by numbers and is not told by which."""
    name, senses = adaptive(settings), directions(settings.sweeper)
    if name and not wanted:
        raise Unknown(
            f"{KEY} = None: hydra/sweeper={name} chooses by a number of results.json; name it, "
            f"for instance {KEY}=policy/oracle"
        )
    if name == "optuna" and len(senses) != len(wanted):
        raise Unknown(
            f"{KEY} = {', '.join(wanted)}: {len(wanted)} name(s), and hydra.sweeper.direction has "
            f"{len(senses)} ({', '.join(senses)}); give each its direction"
        )


def begun(sweep: Path) -> bool:
    """Whether a cell of the sweep has ended well."""
    return any(cell.state not in {FAILED, STOPPED} for cell in cells(sweep))


def gave_up(error: Exception) -> bool:
    """Whether a sweeper ended the sweep because of cells that failed, which is said already."""
    failed = bool(FOLDERS) and any(cell.state == FAILED for cell in cells(FOLDERS[-1]))
    return failed and (isinstance(error, UserError) or NO_BEST in str(error))

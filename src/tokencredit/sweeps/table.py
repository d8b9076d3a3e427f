"""The closing table of a sweep: every cell, and means over the seeds of each setting."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tokencredit.statistics.intervals import from_error, mean_ci
from tokencredit.store.files import read_yaml
from tokencredit.sweeps.objective import Measures
from tokencredit.sweeps.sweep import FAILED, Cell, common

SCORES: Final = ("policy/score", "policy/oracle")
"""Shown of every sweep, after its objective."""
SEEDS: Final = ("seed=", "stage_seed=")
"""Overrides by which repetitions of one cell differ."""
BEST: Final = "optimization_results.yaml"
"""What Optuna's sweeper writes."""


def shown(wanted: Sequence[str], found: Measures) -> Measures:
    """The numbers of a cell that the table has columns for."""
    return {name: found[name] for name in dict.fromkeys((*wanted, *SCORES)) if name in found}


def print_table(found: Sequence[Cell], started: float) -> int:
    """Print the closing table; the number of failed cells."""
    _print(_cells(found))
    groups = _by_setting(found)
    if any(sum(bool(cell.measures) for cell in own) > 1 for own in groups.values()):
        _print(_over_seeds(groups, _columns(found)))
    failed = sum(cell.state == FAILED for cell in found)
    print(f"{len(found)} cells, {failed} failed, {time.monotonic() - started:.0f} s")
    return failed


def print_best(sweep: Path) -> None:
    """Print what the sweeper found best, where it wrote that."""
    path = sweep / BEST
    if path.is_file():
        for name, value in read_yaml(path).items():
            print(f"{name.replace('_', ' ')}: {value}")


def _cells(found: Sequence[Cell]) -> Table:
    names = _columns(found)
    about = "mean ± 95 % interval over held-out prompts" if names else None
    table = Table("cell", "overrides", "state", *names, "seconds", "folder", title="sweep")
    table.caption = about
    shared = common([cell.overrides for cell in found])
    for cell in found:
        own = " ".join(override for override in cell.overrides if override not in shared)
        numbers = [_over_prompts(cell, name) for name in names]
        place, style = cell.error or cell.folder, "red" if cell.state == FAILED else None
        parts = (str(cell.number), own, cell.state, *numbers, f"{cell.seconds:.0f}", place)
        table.add_row(*parts, style=style)
    return table


def _over_seeds(groups: Mapping[tuple[str, ...], Sequence[Cell]], names: Sequence[str]) -> Table:
    table = Table("overrides", "seeds", *names, title="over seeds")
    table.caption = "mean [95 % t interval] over seeds"
    shared = common([list(setting) for setting in groups])
    for setting, own in groups.items():
        failed = sum(cell.state == FAILED for cell in own)
        count = f"{len(own)}, {failed} failed" if failed else str(len(own))
        label = " ".join(override for override in setting if override not in shared) or "all"
        table.add_row(label, count, *(_interval(own, name) for name in names))
    return table


def _columns(found: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(name for cell in found for name in cell.measures))


def _by_setting(found: Sequence[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found:
        setting = tuple(o for o in cell.overrides if not o.lstrip("+").startswith(SEEDS))
        groups.setdefault(setting, []).append(cell)
    return groups


def _over_prompts(cell: Cell, name: str) -> str:
    if cell.state == FAILED:
        return "nan"
    found = cell.measures.get(name)
    if found is None:
        return ""
    x = from_error(found["mean"], found["se"], int(found["n"]))
    return f"{x.mean:.3f} ± {x.high - x.mean:.3f}" if x.se > 0 else f"{x.mean:.3f}"


def _interval(own: Sequence[Cell], name: str) -> str:
    values = [cell.measures[name]["mean"] for cell in own if name in cell.measures]
    if not values or not all(map(math.isfinite, values)):
        return ""
    x = mean_ci(values)
    return f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}]" if x.n > 1 else f"{x.mean:.3f} (n = 1)"


def _print(table: Table) -> None:
    width = None if Console().is_terminal else 160
    Console(width=width).print(table)

"""Runs and their samples as rows, for programs and notebooks."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokencredit.canonical import flatten
from tokencredit.errors import UserError, require
from tokencredit.stages.mirrored import headline
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import reading
from tokencredit.store.run_folder import CONFIG, SAMPLES, RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
PLACES: Final = ("run_dir", "runs_dir", "store", "experiments_dir")
"""Keys that say where things lie, and change no result."""


class Rows(list[Row]):
    """A list of mappings, one a row."""

    def frame(self) -> DataFrame:
        """The rows as a pandas data frame; `UserError` where pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UserError(
                "frame: pandas is not installed; pip install 'tokencredit[notebook]' brings it"
            ) from error
        return pd.DataFrame(self)


def runs(folder: str | Path = "runs", where: Mapping[str, object] | None = None) -> Rows:
    """The runs below a folder, one a row, complete or not, in the order of their folders.

    A row has `folder`, `key`, `scheme`, `experiment`, `status`, `steps`, `seed`, `stage_seed`; of a
    complete run its headline numbers (`last/score/mean`: of the last steps; `evaluation/…`: on
    held-out prompts; `…/se`: their standard errors); and every configuration key in which the runs
    differ, such as `reward_scheme.beta`. `where` keeps the runs whose column, or configuration key,
    has a value, or one of a list: {"scheme": ["abc", "sparse"], "seed": 0}.
    """
    place = Path(folder).expanduser()
    require(place.is_dir(), "folder", str(folder), "there is no such folder")
    found = [_row(path) for path in _folders(place)]
    if not found:
        raise UserError(f"folder = {str(folder)!r}: holds no runs; name a folder of runs, or a run")
    kept = _chosen(found, dict(where or {}))
    configs = [config for _, config in kept]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    return Rows({**row, **{key: config.get(key) for key in differing}} for row, config in kept)


def samples(run: str | Path) -> Rows:
    """The responses that a run has logged, one a row: `step`, `row`, `prompt`, `response`, `score`,
    `tokens`, and a list with a number a token for `rewards` (as the scheme paid them), `shaped`
    (less the KL penalty), `kl`, `values`, and `advantages`.
    """
    found = RunFolder.logged(Path(run).expanduser())
    with reading(found.path / SAMPLES):
        rows = Rows(found.samples)
    if not rows:
        raise UserError(f"{found.path}: has no {SAMPLES}; run with run.samples above 0")
    return rows


def _folders(place: Path) -> Iterator[Path]:
    for manifest in sorted(place.rglob(MANIFEST)):
        if (manifest.parent / CONFIG).is_file():
            yield manifest.parent


def _row(path: Path) -> tuple[Row, Row]:
    """What is shown of a run, and its configuration by dotted key."""
    run = RunFolder(path)
    record = run.record()
    seeds: Mapping[str, object] = record["seeds"]
    with reading(path / CONFIG):
        config = {k: v for k, v in flatten(run.config).items() if k not in PLACES}
    with reading(path):
        numbers = headline(record) if "evaluation" in record else {}
    row: Row = {
        "folder": str(path),
        "key": record["config_hash"],
        "scheme": record.get("scheme"),
        "experiment": record.get("experiment"),
        "status": record["status"],
        "steps": record["steps"],
        "seed": seeds.get("seed"),
        "stage_seed": seeds.get("stage_seed"),
    }
    return row | numbers, {key: value for key, value in config.items() if key not in row}


def _chosen(found: list[tuple[Row, Row]], where: Row) -> list[tuple[Row, Row]]:
    """The runs that have what is asked for; `UserError` for a name that none has."""
    known = {name for row, config in found for name in (*row, *config)}
    for name in where:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f", did you mean {near[0]!r}?" if near else ""
        require(name in known, "where", name, f"no run has such a column or key{guess}")
    return [run for run in found if all(_fits(run, *item) for item in where.items())]


def _fits(run: tuple[Row, Row], name: str, wanted: object) -> bool:
    row, config = run
    value = row[name] if name in row else config.get(name)
    several = isinstance(wanted, Collection) and not isinstance(wanted, str)
    return value in wanted if several else value == wanted  # type: ignore[operator]

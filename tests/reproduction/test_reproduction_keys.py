"""Committed cells, and pilots, have the keys that their commands have today, so a sweep, and a
tuning, find them done.

A key that also holds what decides nothing, such as a file that a change of the code has touched, is
found here and not by the next who gives the command.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokencredit.papers.pilot_files import read_pilots
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.reproduction.recorded import read_recorded, recorded_config
from tokencredit.stages.context import Context
from tokencredit.sweeps.pilot_runs import key_of
from tokencredit.sweeps.tuning import read_comparison

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EARLIER = {"abc/generation_length", "abc/positive_generation_authors"}
"""Of commits before heads were seeded: experiments/README.md says so."""


def first_cells() -> dict[str, Path]:
    """The first cell of each method of each experiment, by experiment and method."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(EXPERIMENTS.glob("*/*/*.json")):
        record = json.loads(path.read_text("utf-8"))
        if path.with_suffix(".csv").is_file() and "config_hash" in record:
            name = f"{record['experiment']} {record['scheme']} {record['scale']}"
            seed = int(record["seeds"]["seed"])
            if record["experiment"] not in EARLIER and seed < found.get(name, (99, path))[0]:
                found[name] = seed, path
    return {name: path for name, (_, path) in found.items()}


CELLS = first_cells()


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_the_key_of_a_committed_cell_is_that_of_today(name: str) -> None:
    recorded = read_recorded(CELLS[name])
    last = all_stages(Context(recorded_config(recorded)))[-1]
    assert last.key == recorded.key, name


TUNINGS = sorted(EXPERIMENTS.glob("*/*/tuning/*.csv"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", TUNINGS, ids=[f"{path.parts[-4]}/{path.parts[-3]}" for path in TUNINGS]
)
def test_the_keys_of_committed_pilots_are_those_of_today(path: Path) -> None:
    """The last one of each method."""
    experiment = f"experiment={path.parts[-4]}/{path.parts[-3]}"
    comparison = read_comparison([experiment, f"scale={path.stem}"])
    last = {row.trial.method: row for row in read_pilots(path)}
    there = {name: row.key for name, row in last.items()}
    assert {name: key_of(comparison.config(row.trial)) for name, row in last.items()} == there

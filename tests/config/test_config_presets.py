"""The presets that launch/README.md names for an experiment compose with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .make_snapshots import load

PAGE = Path(__file__).parents[2] / "launch" / "README.md"
ROW = re.compile(r"^\| ((?:`\w+/\w+`(?:, )?)+) \| ((?:`\w+`(?:, )?)+) \|$", re.MULTILINE)


def named() -> list[tuple[str, str, bool]]:
    """Experiment, preset, and whether it is the first of its row."""
    rows = [
        (re.findall(r"`(.+?)`", a), re.findall(r"`(.+?)`", b))
        for a, b in ROW.findall(PAGE.read_text())
    ]
    return [(e, h, h == all_[0]) for names, all_ in rows for e in names for h in all_]


def test_every_experiment_has_a_row() -> None:
    folder = PAGE.parents[1] / "conf" / "experiment"
    there = {f"{p.parent.name}/{p.stem}" for p in folder.glob("*/*.yaml")} - {"base_model/tiny"}
    assert {experiment for experiment, _, _ in named()} == there


@pytest.mark.parametrize(("experiment", "hardware", "own"), named())
def test_the_pair_composes(experiment: str, hardware: str, own: bool) -> None:
    chosen = [] if own else [f"hardware={hardware}"]
    assert load(f"experiment={experiment}", "scale=paper", *chosen).hardware.name == hardware

"""The committed snapshots are what `conf/` composes; `make docs` rewrites them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import yaml

from tokencredit import config as configuration
from tokencredit.canonical import flatten

from .make_snapshots import SNAPSHOTS, load, snapshots

pytestmark = pytest.mark.xdist_group("composed")

LEAVES: Final = 274
LEAVES_OF: Final = {
    "base_model": 229,
    "dae__hh_harmless": 245,
    "dae__imdb": 291,
    "rto": 277,
    "tlcr": 287,
}
"""Settings that a composed configuration has, by experiment, or by its folder, where they differ.

A commit that adds one raises the number, and its message says why none that is there would do.
"""


@pytest.mark.parametrize(("name", "overrides"), list(snapshots()), ids=str)
def test_snapshot_is_true(name: str, overrides: list[str]) -> None:
    committed = (SNAPSHOTS / f"{name}.yaml").read_text(encoding="utf-8")
    assert committed == configuration.dump(load(*overrides)), "changed: run `make docs`"


def test_no_snapshot_is_left_over() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.yaml")} == {name for name, _ in snapshots()}


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_setting_is_added_unseen(path: Path) -> None:
    leaves = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    settings = [key for key in leaves if not key.startswith("tuning.grid.")]  # keys of others
    name, folder = path.stem.rpartition("__")[0], path.stem.partition("__")[0]
    assert len(settings) == LEAVES_OF.get(name, LEAVES_OF.get(folder, LEAVES))

"""The committed snapshots are what `conf/` composes; `make snapshots` rewrites them."""

from __future__ import annotations

import pytest

from tokencredit import config as configuration

from .make_snapshots import SNAPSHOTS, load, snapshots


@pytest.mark.parametrize(("name", "overrides"), list(snapshots()), ids=str)
def test_snapshot_is_true(name: str, overrides: list[str]) -> None:
    committed = (SNAPSHOTS / f"{name}.yaml").read_text(encoding="utf-8")
    assert committed == configuration.dump(load(*overrides)), "changed: run `make snapshots`"


def test_no_snapshot_is_left_over() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.yaml")} == {name for name, _ in snapshots()}

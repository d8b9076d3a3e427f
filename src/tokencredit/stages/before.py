"""What the stages before another one came to, from their manifests."""

from __future__ import annotations

from typing import Any

from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import MANIFEST, Store
from tokencredit.store.files import read_json


def figures_of(store: Store, stage: Stage) -> dict[str, Any]:
    """The figures that a stage left; none if it is not there."""
    manifest = store.folder(stage) / MANIFEST
    return dict(read_json(manifest, figures=dict)["figures"]) if manifest.is_file() else {}


def figures_before(store: Store, stage: Stage) -> dict[str, dict[str, Any]]:
    """The figures of all stages before this one, by role, parents first."""
    found: dict[str, dict[str, Any]] = {}
    for role, parent in sorted(stage.parents().items(), key=lambda item: item[0] != "sft"):
        found |= {**figures_before(store, parent), role: figures_of(store, parent)}
    return found

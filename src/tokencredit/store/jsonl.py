"""Append-only JSONL files: one line a row, deterministic bytes, cut at an offset on resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokencredit.closing import Closing
from tokencredit.errors import UserError
from tokencredit.store.files import Damaged, naming, read_text


class JsonlWriter(Closing):
    """An open JSONL file to which whole lines are appended.

    Keys keep their order, floats are written by `repr`, and nothing is added, so equal rows give
    equal bytes. A line that a crash tore in half is cut off when the file is opened.
    """

    def __init__(self, path: str | Path) -> None:
        """Open `path` for appending, with its folder."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(self.path)
        self._file = self.path.open("ab", buffering=0)  # a line that fails is not tried again
        self._offset = self.path.stat().st_size

    @property
    def offset(self) -> int:
        """Length of the file in bytes, always at the end of a line."""
        return self._offset

    def write(self, row: Mapping[str, Any]) -> None:
        """Append `row` as one line.

        Raises ValueError naming the key of a NaN or infinity, TypeError naming the key of a value
        that is not plain Python; in both cases nothing is written.
        """
        line = to_line(row)
        with naming(self.path):
            try:
                written = 0
                while written < len(line):  # a disk that is nearly full takes a part
                    written += self._file.write(line[written:])
            except OSError:
                self._file.truncate(self._offset)
                raise
        self._offset += len(line)

    def flush(self) -> None:
        """Return once everything written is on the disk (fsync)."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close; closing twice is allowed."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    @staticmethod
    def truncate(path: str | Path, offset: int) -> None:
        """Cut the file at `offset` bytes, which must be the end of a line; 0 creates no file.

        Raises UserError where the file is shorter than `offset` or has no line ending there.
        """
        path = Path(path)
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise UserError(
                f"{path} = {size} bytes: the checkpoint was made at {offset} bytes; the file has "
                "lost lines, so restore it or delete the run folder and start again"
            )
        if size == offset:
            return
        with path.open("r+b") as file:
            if offset > 0:
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    raise UserError(
                        f"{path} = {size} bytes: no line ends at byte {offset}, where the "
                        "checkpoint was made; the file was edited, so restore it or delete the "
                        "run folder and start again"
                    )
            file.truncate(offset)
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file; a torn last line (no line ending) is left out.

    Raises `Damaged` naming file and line where a whole line is not a JSON object.
    """
    path = Path(path)
    *lines, _torn = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise Damaged(
                f"{path}, line {number} = {line[:60]!r}: must be a JSON object; the file was "
                "damaged or edited"
            )
        rows.append(row)
    return rows


def read_steps(path: str | Path) -> list[dict[str, Any]]:
    """As `read_jsonl`, of a log with a step and numbers on each line; none if there is no file."""
    rows = read_jsonl(path) if Path(path).exists() else []
    for number, row in enumerate(rows, start=1):
        wrong = [key for key, value in row.items() if not isinstance(value, int | float)]
        if type(row.get("step")) is not int or wrong:
            what = f"{wrong[0]} is no number" if wrong else "it has no step"
            raise Damaged(f"{path}, line {number}: {what}; the file was damaged or edited")
    return rows


def read_objects(path: Path, option: str) -> list[dict[str, Any]]:
    """The objects of a file that `option` names: a JSON list (.json), or one object a line."""
    if not path.is_file():
        raise UserError(f"{option} {path}: there is no such file")
    text = read_text(path)
    try:
        whole = path.suffix == ".json"
        rows = json.loads(text) if whole else [json.loads(x) for x in text.split("\n") if x.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option} {path}: is no JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{option} {path}: must hold objects, in a list (.json) or one a line")
    return rows


def to_line(row: Mapping[str, Any]) -> bytes:
    """Return `row` as compact JSON with a line ending, in UTF-8; raises as `JsonlWriter.write`."""
    for key, value in _leaves(row, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} = {value!r}: only finite numbers can be logged")
        if not isinstance(value, str | int | float | bool | None):
            raise TypeError(
                f"{key} is a {type(value).__name__}: log plain Python values (float(x), x.tolist())"
            )
    try:
        return (_dump(row, ascii_only=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8; JSON can still escape it
        return (_dump(row, ascii_only=True) + "\n").encode()


def _dump(row: Mapping[str, Any], ascii_only: bool) -> str:
    return json.dumps(row, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{index}]")
    else:
        yield key, value


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)

"""Files of rows: CSV, JSONL, a JSON list, Parquet, Arrow; several of them, or a saved folder.

What a file is, its first bytes say, and never its name.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tokencredit.errors import UserError

Row = Mapping[str, Any]

EXTRA: Final = "(values behind the last column)"
"""Under which name a CSV row has what its header does not name."""
PIECE: Final = 1 << 20
GZIP: Final = b"\x1f\x8b"
PARQUET: Final = b"PAR1"
ARROW_FILE: Final = b"ARROW1"
ARROW_STREAM: Final = b"\xff\xff\xff\xff"
OTHERS: Final = {
    PARQUET: "Parquet within gzip; unpack it",
    b"PK\x03\x04": "a zip archive or a workbook; unpack it, or save it as CSV",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
    b"SQLite format 3": "a database; save the table as CSV",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run `git lfs pull`",
}
TRAIN: Final = "train"
"""The split that is read where nobody names one."""
SAVED: Final = ("state.json", "dataset_dict.json")
"""What tells a folder that `datasets` saved from any other."""
WILD: Final = "*?["


def paths_of(value: object) -> list[Path]:
    """The files that `dataset.path` names: one, a list, or a pattern, whose files come sorted."""
    names = value if isinstance(value, list) else [value]
    found: list[Path] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise UserError(f"dataset.path = {value!r}: name a file, a list of files, or a pattern")
        path = Path(name).expanduser()
        if not set(WILD) & set(name) or path.exists():
            found.append(path)
            continue
        start = Path(path.anchor) if path.anchor else Path()
        matching = sorted(start.glob(str(path.relative_to(path.anchor))))
        if not matching:
            raise UserError(f"dataset.path = {name!r}: no file matches this pattern")
        found += matching
    if not found:
        raise UserError(f"dataset.path = {value!r}: the list names no file")
    return found


def files_below(value: object) -> list[Path]:
    """The files that `dataset.path` names, and those of the folders that it names."""
    files: list[Path] = []
    for path in paths_of(value):
        files += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [path for path in files if path.is_file()]


def stamp(value: object) -> tuple[tuple[str, int, int], ...]:
    """What tells whether the files of `dataset.path` have changed: when written, and how long."""
    states = [(str(path), path.stat()) for path in files_below(value)]
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


def file_rows(path: Path, max_bytes: int = 1 << 31, split: str = TRAIN) -> Iterator[Row]:
    """The rows of a file or of a folder that `datasets` saved (of one with splits, of `split`).

    Raises `UserError` for what cannot be read, and for a file that is compressed and would unpack
    to more than `max_bytes`.
    """
    try:
        if path.is_dir():
            return _saved_rows(path, split)
        with path.open("rb") as file:
            head = file.read(32)
        _check_whole(path, split)
        if head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM)):
            return _table_rows(path, head, max_bytes)
        content = _unpacked(path, max_bytes) if head.startswith(GZIP) else path.read_bytes()
        text = _decoded(content, path)
    except FileNotFoundError:
        rule = "there is no such file"
    except PermissionError:
        rule = "the file cannot be read (permission denied)"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        rule = f"the gzip file is truncated or damaged ({error}); copy it again"
    except UnicodeDecodeError as error:
        rule = f"byte {error.start} is not UTF-8; convert the file to UTF-8"
    except OSError as error:
        rule = f"the file cannot be read ({error})"
    else:
        return _text_rows(text, path)
    raise _refused(path, rule)


def _check_whole(path: Path, split: str) -> None:
    if split != TRAIN:
        raise _refused(path, f"has no splits (dataset.hub_split = {split!r}); leave that out")


def _decoded(content: bytes, path: Path) -> str:
    for magic, what in OTHERS.items():
        if content.startswith(magic):
            raise _refused(path, what)
    return content.decode("utf-8-sig")


def _refused(path: Path, rule: str) -> UserError:
    return UserError(f"dataset.path = {str(path)!r}: {rule}")


def _unpacked(path: Path, max_bytes: int) -> bytes:
    """The content of a gzip file, counted before it is kept: a small file may unpack to anything.

    Raises `UserError` where that is more than `max_bytes`.
    """
    size = 0
    with gzip.open(path, "rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
            if size > max_bytes:
                raise _too_large(path, max_bytes)
    with gzip.open(path, "rb") as file:
        return file.read()


def _too_large(path: Path, max_bytes: int) -> UserError:
    return _refused(
        path,
        f"unpacks to more than dataset.max_bytes = {max_bytes} bytes; raise that if the file is "
        "what you take it for",
    )


def _text_rows(text: str, path: Path) -> Iterator[Row]:
    begins = text.lstrip()[:1]
    if not begins:
        raise _refused(path, "the file is empty")
    if begins == "{":
        return _jsonl_rows(text, path)
    return _list_rows(text, path) if begins == "[" else _own_csv_rows(text, path)


def csv_rows(text: str, where: str) -> Iterator[Row]:
    """The rows below the header line of a CSV text."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey=EXTRA)
    if not reader.fieldnames:
        raise UserError(f"dataset: {where} has no header line")
    return reader


def _own_csv_rows(text: str, path: Path) -> Iterator[Row]:
    """The rows of somebody's table, whose columns a comma, a semicolon, or a tab may part."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    header = text.lstrip().partition("\n")[0]
    parted = max(",;\t", key=header.count)
    reader = csv.DictReader(
        io.StringIO(text, newline=""), restkey=EXTRA, delimiter=parted, strict=True
    )
    try:
        names = list(reader.fieldnames or ())
        if not names or len(set(names)) < len(names):
            rule = "names a column twice" if names else "has no header line"
            raise _refused(path, f"the CSV file {rule}: {names}")
        yield from reader
    except csv.Error as error:
        raise _refused(
            path,
            f"line {reader.line_num} is not CSV ({error}); begin and end each value that holds "
            'commas, quotes, or line breaks with ", and double the " within',
        ) from error


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        what, rule = f"line {number} is not JSON", "a JSONL file holds one object a line"
        row = _json(line, path, what, rule)
        if not isinstance(row, dict):
            raise _refused(path, f"line {number} is not a JSON object")
        yield row


def _list_rows(text: str, path: Path) -> Iterator[Row]:
    found = _json(text, path, "not a JSON list", "it holds objects, with commas between them")
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise _refused(path, f"item {number} of the JSON list is not an object")
        yield row


def _json(text: str, path: Path, what: str, rule: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = "" if what.startswith("line") else f", line {error.lineno}"
        raise _refused(path, f"{what} ({error.msg}{place}); {rule}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise _refused(path, f"{what} that can be read ({reason})") from error


def _table_rows(path: Path, head: bytes, max_bytes: int) -> Iterator[Row]:
    """The rows of a Parquet or Arrow file, some at a time.

    They are read as `datasets` reads them, without the copy that it would leave in its cache.
    """
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if head.startswith(PARQUET):
            file = parquet.ParquetFile(path)
            groups = range(file.metadata.num_row_groups)
            if sum(file.metadata.row_group(n).total_byte_size for n in groups) > max_bytes:
                raise _too_large(path, max_bytes)
            batches = file.iter_batches()
        elif head.startswith(ARROW_FILE):
            opened = ipc.open_file(pa.memory_map(str(path)))
            batches = (opened.get_batch(n) for n in range(opened.num_record_batches))
        else:
            batches = ipc.open_stream(pa.memory_map(str(path)))
        for batch in batches:
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if head.startswith(PARQUET) else "Arrow"
        raise _refused(
            path, f"the {kind} file is truncated or damaged ({error}); copy it again"
        ) from error


def _saved_rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of a folder that `datasets` saved; no code of it is run."""
    if not any((path / name).is_file() for name in SAVED):
        raise _refused(
            path,
            "this is a folder, but not one that `datasets` saved; name a file, or a pattern such "
            f"as '{path}/*.jsonl'",
        )
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise _refused(path, f"the saved data set cannot be loaded ({error})") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            names = ", ".join(map(str, loaded))
            raise _refused(path, f"has no split {split!r} (dataset.hub_split), but {names}")
        loaded = loaded[split]
    else:
        _check_whole(path, split)
    for table in loaded.with_format("arrow").iter(PIECE >> 10):  # as stored: nothing is decoded
        yield from table.to_pylist()

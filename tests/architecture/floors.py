"""The floors of the house, from the `layers` contract of pyproject.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from importlinter.api import read_configuration
from importlinter.contracts.layers import LayersContract

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Floor:
    """One line of the contract: what stands at one height."""

    rooms: tuple[str, ...]
    """Full names of modules, sorted."""
    apart: bool
    """Whether they know nothing of each other."""


def contract() -> LayersContract:
    """The one `layers` contract, as import-linter reads it."""
    read = read_configuration(str(ROOT / "pyproject.toml"))
    (options,) = (each for each in read["contracts_options"] if each["type"] == "layers")
    return LayersContract(options["name"], read["session_options"], options)


def floors() -> list[Floor]:
    """The floors, the roof first."""
    read: Any = contract()  # its fields are annotated with what reads them
    above = [f"{module.expression}." for module in read.containers or ()] or [""]
    return [
        Floor(
            tuple(sorted(each + tail.name for each in above for tail in layer.module_tails)),
            apart=layer.is_independent,
        )
        for layer in read.layers
    ]

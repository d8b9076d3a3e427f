"""What a try is: another value of a key, and where its effect can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from observers import Observer

HERE = "@"
"""Stands for the folder that `furnish` has filled."""


@dataclass(frozen=True)
class Try:
    """Another value, where its effect can be seen, and what must be set for it to have one."""

    see: Observer
    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    also: Mapping[str, Any] = field(default_factory=dict)
    """Set together with the value, where it would not be allowed alone."""

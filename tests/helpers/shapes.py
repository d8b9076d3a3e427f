"""Types and shapes held to their annotations: what the import hook of tests/conftest.py calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from beartype import BeartypeConf, beartype

HELD: Final = tuple(f"tokencredit.{part}" for part in ("rewards", "algorithms", "ops", "rollout"))
"""The modules, and packages, whose functions and dataclasses are checked wherever a test calls them."""
SELF = re.compile(r"\bSelf\b")
HOLD: Final = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Holds a function to its annotations; an int is a float, as mypy has it."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises for arguments or results that are not as annotated.

    Two kinds of hints pass, which mypy checks: those that name `Self`, known to beartype in classes
    alone that it decorates as a whole, and protocols, which have no values to ask.
    """
    for name, hint in function.__annotations__.items():
        if SELF.search(str(hint)) or getattr(hint, "_is_protocol", False):
            function.__annotations__[name] = object
    held: Callable[..., Any] = HOLD(function)
    return held

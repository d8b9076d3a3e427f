"""What a user did wrong, said once: the key, the value, the rule, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input, not in the program: printed without a traceback, exit code 2."""


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise `UserError` naming `key`, `value` and `rule` unless `condition` holds.

    `rule` completes the sentence "<key> = <value>: …" and ends with the remedy where there is one.
    """
    if not condition:
        raise UserError(f"{key} = {value!r}: {rule}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What a message adds about a name that is not known: the one that may be meant, if any."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {match[0]!r}?" if match else ""

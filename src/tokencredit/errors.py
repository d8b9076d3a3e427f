"""What a user did wrong, said once: the key, the value, the rule, and the remedy."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input, not in the program: printed without a traceback, exit code 2."""


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise `UserError` naming `key`, `value` and `rule` unless `condition` holds.

    `rule` completes the sentence "<key> = <value>: …" and ends with the remedy where there is one.
    """
    if not condition:
        raise UserError(f"{key} = {value!r}: {rule}")

"""Promises of a component, a user's own perhaps: which hold, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tokencredit.console import show
from tokencredit.errors import UserError
from tokencredit.user_code.guard import guarded

Promise = Callable[[], str | None]
"""What is wrong; "" where it holds, None where that cannot be told."""


def examine(
    name: str, promises: Mapping[str, Promise], remedies: Mapping[str, str]
) -> dict[str, str]:
    """By promise of the component `name`: what is wrong and what to do; empty where it holds.

    What cannot be told is left out.
    """
    found: dict[str, str] = {}
    for promise, look in promises.items():
        try:
            with guarded(name):
                problem = look()
        except UserError as error:
            raised = str(error).removeprefix(f"{name}: ")
            if raised not in found.values():  # it concerns every promise, and is said once
                found[promise] = raised
        else:
            if problem is not None:
                found[promise] = f"{problem}; {remedies[promise]}" if problem else ""
    return found


def require_all(name: str, found: Mapping[str, str]) -> None:
    """Raise `UserError` for what `examine` has found broken, one line each."""
    problems = [f"{promise}: {problem}" for promise, problem in found.items() if problem]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        number = f"{len(problems)} of {len(found)}"
        raise UserError(f"{name}: broken promises ({number}):{listed}")


def tell(name: str, found: Mapping[str, str]) -> None:
    """Print a line for each promise that holds; then as `require_all`."""
    for promise, problem in found.items():
        if not problem:
            show(f"ok  {promise}")
    require_all(name, found)

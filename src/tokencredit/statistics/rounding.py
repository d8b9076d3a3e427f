"""How numbers are written wherever people read them: console, tables, pages, and claims.

A mean, its interval, and its standard error have as many decimals as each other, so that none says
more than the others: three, where a table does not say otherwise for all of its numbers. Files for
programs (CSV, JSON) hold every digit.
"""

from __future__ import annotations

from typing import Final, Protocol

DIGITS: Final = 3
"""Decimals of means, differences, intervals, and standard errors."""


class Uncertain(Protocol):
    """A mean with the ends of its interval."""

    @property
    def mean(self) -> float:
        """What was measured."""

    @property
    def low(self) -> float:
        """The lower end."""

    @property
    def high(self) -> float:
        """The upper end."""

    @property
    def n(self) -> int:
        """Of how many values."""


def rounded(value: float, digits: int = DIGITS, *, signed: bool = False) -> str:
    """`1.235`, or `+1.235` for differences; what rounds to zero has no minus."""
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def interval(low: float, high: float, digits: int = DIGITS, *, signed: bool = False) -> str:
    """`[1.200, 1.270]`."""
    return f"[{rounded(low, digits, signed=signed)}, {rounded(high, digits, signed=signed)}]"


def with_interval(x: Uncertain, digits: int = DIGITS, *, signed: bool = False) -> str:
    """`1.235 [1.200, 1.270]`; a single value, which says nothing of others, has no interval."""
    if x.n == 1:
        return rounded(x.mean, digits, signed=signed)
    ends = interval(x.low, x.high, digits, signed=signed)
    return f"{rounded(x.mean, digits, signed=signed)} {ends}"


def with_error(mean: float, error: float, digits: int = DIGITS, *, signed: bool = False) -> str:
    """`1.235 ± 0.018`: a mean with its standard error, or half the width of an interval."""
    return f"{rounded(mean, digits, signed=signed)} ± {rounded(error, digits)}"

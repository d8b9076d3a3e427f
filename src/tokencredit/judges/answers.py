"""What a user's function has returned, as tensors; or which response it did not fit, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from numbers import Complex, Real
from typing import Any, Final

import numpy as np
import torch

from tokencredit.errors import UserError
from tokencredit.rewards.scheme import Evidence

LARGEST: Final = (2 - 2**-23) * 2.0**127
"""The largest number of float32."""
NO_LISTS: Final = (str, bytes, dict, set, frozenset)
"""What can be counted through but says nothing of an order, or is no list of numbers."""
MOST_TOKENS: Final = 1 << 20
"""How many numbers are taken from a generator about one response; a real one has fewer."""
SHOWN: Final = 4
"""Rows that an error names."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Reads answers about some responses; `rows` are the records that they continue."""

    what: str
    """The function, as errors name it."""
    rows: Sequence[int]

    def scores(self, values: Any) -> torch.Tensor:
        """One finite number a response, float32 on the CPU."""
        listed = self._listed(values, "scores", "one number a response")
        count = len(self.rows)
        if len(listed) != count:
            raise self._unfit(
                f"returned scores of shape {_shape(values)} for {count} responses; return one "
                "number a response"
            )
        return torch.tensor([self._number(x, self._who(i), values) for i, x in enumerate(listed)])

    def evidence(self, values: Any, lengths: Sequence[int], kind: Evidence) -> list[torch.Tensor]:
        """One finite number a token of each response, of which there are `lengths`."""
        listed = self._listed(values, "evidence", "one list a response")
        if len(listed) != len(lengths):
            raise self._unfit(
                f"returned evidence for {len(listed)} of {len(lengths)} responses; return one list "
                "a response"
            )
        return [
            self._tokens(own, length, self._who(place), kind)
            for place, (own, length) in enumerate(zip(listed, lengths, strict=True))
        ]

    def _tokens(self, values: Any, length: int, who: str, kind: Evidence) -> torch.Tensor:
        """The evidence of one response."""
        numbers = self._listed(values, f"evidence of {who}", "one number a token")
        if len(numbers) != length:
            raise self._unfit(
                f"{who} has {length} tokens, but {len(numbers)} numbers of evidence; return one a "
                "token"
            )
        found = [self._number(x, f"token {t} of {who}", values) for t, x in enumerate(numbers)]
        for t, number in enumerate(found):
            if number < 0 and kind is Evidence.nonnegative:
                raise self._unfit(
                    f"token {t} of {who} has the evidence {number:g}, but judge.meaning is "
                    "nonnegative; return weights >= 0, or set judge.meaning=signed"
                )
        return torch.tensor(found, dtype=torch.float32)

    def _who(self, place: int) -> str:
        return f"row {self.rows[place]}, response {place}"

    def _unfit(self, problem: str) -> UserError:
        return UserError(f"{self.what}: {problem}")

    def _listed(self, values: Any, name: str, wanted: str) -> Sequence[Any]:
        """The parts of a list, an array, or a tensor."""
        values = self._plain(values, name)
        if isinstance(values, torch.Tensor | np.ndarray):
            if values.ndim > 0:
                return values.tolist() if values.ndim == 1 else list(values)
        elif not isinstance(values, NO_LISTS) and hasattr(values, "__len__"):
            return list(values)
        if isinstance(values, torch.Tensor | np.ndarray | Real):
            raise self._unfit(
                f"returned {name} of shape () for {len(self.rows)} responses; return {wanted}"
            )
        raise self._unfit(f"returned {_described(values)} where {name} are wanted; return {wanted}")

    def _plain(self, values: Any, name: str) -> Any:
        """A tensor on the CPU, and what can become an array as one."""
        try:
            if isinstance(values, torch.Tensor):
                return values.detach().cpu()
            return np.asarray(values) if hasattr(values, "__array__") else values
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise self._unfit(
                f"returned a {type(values).__name__} without numbers as {name} ({error})"
            ) from error

    def _number(self, value: Any, who: str, whole: Any) -> float:
        value = self._plain(value, who)
        if isinstance(value, torch.Tensor | np.ndarray | np.generic):
            if value.ndim > 0:
                raise self._unfit(
                    f"returned scores of shape {_shape(whole)} for {len(self.rows)} responses; "
                    f"{who} has more than one number"
                )
            value = value.item()
        if isinstance(value, Real | Decimal):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number) and abs(number) <= LARGEST:
                return number
            given = isinstance(value, float) and math.isinf(value)
            beyond = not (given or math.isnan(number))
            why = f"beyond float32 (±{LARGEST:.1e})" if beyond else "not finite"
            raise self._unfit(f"returned {_described(value)} for {who}, a number that is {why}")
        kind = f"{'the complex number ' * isinstance(value, Complex)}{_described(value)}"
        if isinstance(value, list | tuple):
            raise self._unfit(
                f"returned scores of shape {_shape(whole)} for {len(self.rows)} responses; "
                f"{who} has a {type(value).__name__} instead of a number"
            )
        raise self._unfit(f"returned {kind} for {who}; return a number")


def asked_about(rows: Sequence[int]) -> str:
    """What the user's code was called with, for an error that concerns all of it."""
    shown = ", ".join(map(str, rows[:SHOWN])) + ", …" * (len(rows) > SHOWN)
    return f"asked about {len(rows)} responses, rows {shown}"


def unrolled(answer: Any, most: int) -> Any:
    """`answer` with generators, also one in a pair, made lists of a little more than `most`.

    Making them runs the user's code, so it belongs into the guarded call.
    """
    if isinstance(answer, tuple):
        return tuple(unrolled(part, most) for part in answer)
    if isinstance(answer, list):
        return [list(islice(part, MOST_TOKENS)) if _runs(part) else part for part in answer]
    return unrolled(list(islice(answer, most + 1)), most) if _runs(answer) else answer


def _runs(value: Any) -> bool:
    return isinstance(value, Iterator)


def _shape(values: Any) -> tuple[int, ...]:
    """The shape of nested lists, by their first parts."""
    if isinstance(values, torch.Tensor | np.ndarray):
        return tuple(values.shape)
    if isinstance(values, NO_LISTS) or not hasattr(values, "__len__"):
        return ()
    first = next(iter(values), None)
    return (len(values), *_shape(first))


def _described(value: Any) -> str:
    """A value that is short, or what kind of thing it is."""
    if value is None:
        return "None"
    text = repr(value) if isinstance(value, int | float | str | complex | Decimal) else ""
    return text if 0 < len(text) <= 40 else f"a value of type {type(value).__name__}"

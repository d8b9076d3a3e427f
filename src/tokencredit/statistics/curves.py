"""Curves of training: their running mean, and where they reach a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

WINDOW: Final = 10
"""Steps of a running mean."""


def running_mean(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Return, at each place, the mean of the last `window` values, of fewer at the beginning."""
    sums = np.cumsum([0.0, *values])
    return [
        float(sums[end] - sums[max(0, end - window)]) / min(end, window)
        for end in range(1, len(sums))
    ]


def at_level(
    x: Sequence[float], y: Sequence[float], level: float, window: int = WINDOW
) -> float | None:
    """`y` where `x` first reaches `level`, both smoothed by a running mean; linear between steps.

    None if `x` never does. If it starts there, the first `y`.
    """
    smooth_x, smooth_y = running_mean(x, window), running_mean(y, window)
    for step, value in enumerate(smooth_x):
        if value < level:
            continue
        if step == 0:
            return smooth_y[0]
        before = smooth_x[step - 1]
        share = (level - before) / (value - before)
        return smooth_y[step - 1] + share * (smooth_y[step] - smooth_y[step - 1])
    return None


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, by numpy's pairwise sum as in the authors' code."""
    return float(np.mean(np.asarray(values, dtype=np.float64)))

"""What a win rate would be at equal length, and the lengths themselves.

Judges like long answers. As AlpacaEval describes its length-controlled win rate, a logistic model
predicts each verdict from the difference in length, tanh(Δ / sd Δ), and the rate is read off where
that difference is zero. Two models say too little about how hard each instruction is, which
AlpacaEval's own model has beside that; `difficulty` estimates it from verdicts on three or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64
from scipy.special import expit

RIDGE: Final = 0.05
"""Half the weight of the squared coefficients in the loss; keeps them finite if all verdicts
agree."""


@dataclass(frozen=True, slots=True)
class AtEqualLength:
    """A win rate with the part that length explains taken out."""

    rate: float
    se: float
    """From the curvature of the likelihood, by the delta method."""
    slope: float
    """Change of the log-odds of winning from much shorter (−1) or equal (0) to much longer (1)."""
    length: float
    other_length: float
    """Mean lengths of both."""
    n: int


def at_equal_length(
    shares: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float]
) -> AtEqualLength:
    """The win rate of `shares` that the model predicts for answers of one length.

    Swapping the two models gives 1 − rate. Raises ValueError for unequal numbers of values.
    """
    y = np.asarray(shares, dtype=np.float64)
    own, other = np.asarray(lengths, np.float64), np.asarray(other_lengths, np.float64)
    if not y.size or not y.size == own.size == other.size:
        raise ValueError(f"{y.size}, {own.size}, {other.size} values: one of each for every prompt")
    x = length_term(own, other)
    design = np.stack([np.ones_like(x), x], axis=1)
    weights, covariance = _logistic(design, y)
    rate = float(expit(weights[0]))
    se = rate * (1 - rate) * float(np.sqrt(covariance[0, 0]))
    return AtEqualLength(
        rate, se, float(weights[1]), float(own.mean()), float(other.mean()), int(y.size)
    )


def length_term(
    lengths: Float64[np.ndarray, "N"], other_lengths: Float64[np.ndarray, "N"]
) -> Float64[np.ndarray, "N"]:
    """tanh(Δ / sd Δ), the spread taken around 0, so that a swap only changes the sign."""
    gap = lengths - other_lengths
    spread = float(np.sqrt((gap**2).mean()))
    return np.asarray(np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap))


def _logistic(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients that minimise the logistic loss of shares y, and their covariance."""
    weights = np.zeros(design.shape[1])
    ridge = 2 * RIDGE * np.eye(len(weights))

    def loss(w: np.ndarray) -> float:
        z = design @ w
        return float((np.logaddexp(0, z) - y * z).sum() + RIDGE * (w @ w))

    def curvature(w: np.ndarray) -> np.ndarray:
        p = expit(design @ w)
        return np.asarray((design * (p * (1 - p))[:, None]).T @ design + ridge)

    value = loss(weights)
    for _ in range(100):
        gradient = design.T @ (expit(design @ weights) - y) + 2 * RIDGE * weights
        if np.abs(gradient).max() < 1e-10 * len(y):
            break
        step = np.linalg.solve(curvature(weights), gradient)
        while loss(weights - step) > value and np.abs(step).max() > 1e-15:
            step /= 2
        weights, value = weights - step, loss(weights - step)
    return weights, np.linalg.inv(curvature(weights))

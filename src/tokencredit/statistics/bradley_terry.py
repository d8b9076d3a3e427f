"""Bradley–Terry strengths: how good players are, whoever they happened to play.

P(i beats j) = e^{b_i} / (e^{b_i} + e^{b_j}). A constant added to all b changes nothing, so they sum
to 0 here; multiplying all b by a constant does change the probabilities.

Bradley and Terry 1952; condition for finite strengths: Ford 1957; Hunter 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float64
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit, ndtri

from tokencredit.errors import UserError

TOLERANCE: Final = 1e-12
MOST_STEPS: Final = 200

Counts = Float64[np.ndarray, "K K"]


@dataclass(frozen=True, slots=True)
class Strengths:
    """Estimates b of all players, log scale, sum 0."""

    names: tuple[str, ...]
    b: Float64[np.ndarray, "K"]
    covariance: Float64[np.ndarray, "K K"]
    """Inverse Fisher information where Σ b = 0."""
    log_likelihood: float
    steps: int
    """Newton steps taken."""

    @property
    def se(self) -> Float64[np.ndarray, "K"]:
        """Standard error of each b, against the mean of all players."""
        return np.sqrt(np.diag(self.covariance))

    def interval(self, index: int, level: float = 0.95) -> tuple[float, float]:
        """Wald interval of one player's b."""
        half = float(ndtri((1 + level) / 2)) * float(self.se[index])
        return float(self.b[index]) - half, float(self.b[index]) + half

    def difference(self, i: int, j: int) -> tuple[float, float]:
        """b_i − b_j, the log-odds that i beats j, and its standard error."""
        c = self.covariance
        return float(self.b[i] - self.b[j]), float(np.sqrt(c[i, i] + c[j, j] - 2 * c[i, j]))

    def ranking(self) -> list[int]:
        """Players by strength, the best first."""
        return [int(i) for i in np.argsort(-self.b, kind="stable")]


def probabilities(b: Float64[np.ndarray, "K"]) -> Counts:
    """P(row beats column) for players of strengths b."""
    return np.asarray(expit(b[:, None] - b[None, :]))


def log_likelihood(b: Float64[np.ndarray, "K"], wins: Counts) -> float:
    """Σ_ij w_ij log P(i beats j)."""
    return float((wins * log_expit(b[:, None] - b[None, :])).sum())


def strengths(wins: Counts, names: Sequence[str] | None = None, prior: float = 0.0) -> Strengths:
    """The maximum-likelihood strengths from wins[i, j], how often i beat j; a draw is half a win
    of both.

    `prior` adds that many drawn games between every two players, which makes all strengths finite
    and pulls them together. Raises `UserError` where the likelihood has no maximum (Ford's
    condition fails), saying between whom, and ValueError for a matrix that holds no counts.
    """
    counts = np.array(wins, dtype=np.float64)
    size = len(counts)
    labels = tuple(names) if names is not None else tuple(map(str, range(size)))
    if counts.shape != (size, size) or len(labels) != size or size < 2:
        raise ValueError(f"wins has shape {counts.shape}: one row and column for each of ≥ 2 names")
    if not np.isfinite(counts).all() or (counts < 0).any() or prior < 0:
        raise ValueError("counts of wins, and the prior, are finite and not negative")
    np.fill_diagonal(counts, 0)
    counts += prior / 2 * (1 - np.eye(size))
    check_connected(counts, labels)
    b, steps = _newton(counts)
    # On Σ b = 0 the information has its usual inverse; 11ᵀ/K lifts the one direction it lacks.
    lifted = np.linalg.inv(information(b, counts) + 1 / size) - 1 / size
    return Strengths(labels, b, lifted, log_likelihood(b, counts), steps)


def strengths_or_why(wins: Counts, names: Sequence[str], prior: float = 0.0) -> dict[str, Any]:
    """Each player's strength `b` and its standard error `se`; or, as `none`, why there are none."""
    try:
        found = strengths(wins, names, prior)
    except UserError as error:
        return {"none": str(error)}
    return {
        name: {"b": float(found.b[i]), "se": float(found.se[i])} for i, name in enumerate(names)
    }


def information(b: Float64[np.ndarray, "K"], wins: Counts) -> Counts:
    """Fisher information of b: n_ij p_ij p_ji off the diagonal, negative; rows sum to 0."""
    p = probabilities(b)
    weights = (wins + wins.T) * p * p.T
    np.fill_diagonal(weights, 0)
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)


def _newton(wins: Counts) -> tuple[Float64[np.ndarray, "K"], int]:
    """The maximum by Newton's method; a step that lowers the likelihood is halved."""
    size = len(wins)
    games, b = wins + wins.T, np.zeros(size)
    value = log_likelihood(b, wins)
    for step in range(MOST_STEPS):
        gradient = wins.sum(axis=1) - (games * probabilities(b)).sum(axis=1)
        if np.abs(gradient).max() <= TOLERANCE * max(1.0, float(games.sum())):
            return b, step
        move = np.linalg.solve(information(b, wins) + 1 / size, gradient)
        move -= move.mean()
        new = log_likelihood(b + move, wins)
        # At the maximum a likelihood differs by less than its own rounding: a good last step may
        # seem to lower it, and refusing that one would leave an error of √ε.
        rounding = 8 * np.finfo(np.float64).eps * abs(value)
        while new < value - rounding and np.abs(move).max() > 0:
            move /= 2
            new = log_likelihood(b + move, wins)
        if np.abs(move).max() <= 1e-15 * max(1.0, float(np.abs(b).max())):
            return b, step  # the last bits of the gradient are rounding
        b, value = b + move, new
    raise UserError(
        f"strengths: no convergence in {MOST_STEPS} steps; strengths differ too much for these "
        "counts, so add drawn games with --prior 0.5"
    )


def check_connected(wins: Counts, names: Sequence[str]) -> None:
    """Raise `UserError` unless, however players are parted in two, each part beat the other once
    (Ford 1957): else no finite strengths are the likeliest.
    """
    games = wins + wins.T
    apart, group = connected_components(games > 0, directed=False)
    if apart > 1:
        lists = "; ".join(_group(names, group == k) for k in range(apart))
        raise UserError(
            f"strengths: no games between {lists}; they cannot be compared. Add games between "
            "them, or a few drawn ones of everybody with --prior 0.5"
        )
    count, part = connected_components(wins > 0, directed=True, connection="strong")
    if count == 1:
        return
    # A part of the condensed graph that nobody outside has beaten is infinitely strong.
    unbeaten = next(k for k in range(count) if not (wins[np.ix_(part != k, part == k)] > 0).any())
    raise UserError(
        f"strengths: {_group(names, part == unbeaten)} lost no game against "
        f"{_group(names, part != unbeaten)}, so the likeliest difference between them is infinite. "
        "Collect more games, or add a few drawn ones of everybody with --prior 0.5"
    )


def _group(names: Sequence[str], chosen: np.ndarray) -> str:
    return "{" + ", ".join(name for name, here in zip(names, chosen, strict=True) if here) + "}"

"""Win rates of several models at equal length, with how hard each instruction is.

As AlpacaEval's length-controlled win rate (Dubois et al. 2024) describes the verdict on model m and
instruction x, against one baseline,

    logit p = θ_m + φ_m tanh(Δ_mx / sd_m) + ψ_m γ_x,

with Δ the difference in length. γ_x, the same for all models, is estimated from all their verdicts:
γ ~ N(0, 1) is integrated out (Gauss–Hermite), so θ, φ, ψ are not biased by as many unknown γ as
there are instructions; they maximise the marginal likelihood, with the ridge of `length_control`.
A model's rate is read off at Δ = 0, the mean over instructions given all verdicts on them. Two
models cannot tell γ from chance, so three are the fewest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp

from tokencredit.statistics.length_control import RIDGE, AtEqualLength, length_term

FEWEST: Final = 3
"""Models without which difficulty cannot be told from chance."""
NODES: Final = 21
STEP: Final = 1e-4
"""Of central differences."""


@dataclass(frozen=True, slots=True)
class Joint:
    """What the verdicts on several models say of each, and of the instructions."""

    readings: tuple[AtEqualLength, ...]
    """By model. The standard error is over instructions."""
    abilities: tuple[float, ...]
    """θ."""
    loadings: tuple[float, ...]
    """ψ; their sum is not negative."""
    difficulties: Float64[np.ndarray, "X"]
    """γ of each instruction, the mean given its verdicts: high where the baseline is beaten."""


def jointly_at_equal_length(
    shares: Float64[np.ndarray, "M X"],
    lengths: Float64[np.ndarray, "M X"],
    other_lengths: Float64[np.ndarray, "M X"],
) -> Joint:
    """Fit the model to `shares` of M models on X instructions; NaN where there is no verdict.

    Raises ValueError for fewer than three models, other shapes, or one without a verdict.
    """
    known = np.isfinite(shares)
    if not shares.shape == lengths.shape == other_lengths.shape or len(shares) < FEWEST:
        raise ValueError(f"{shares.shape}: at least {FEWEST} models, one length for every verdict")
    if not known.any(axis=1).all():
        raise ValueError("a model without a verdict")
    fit = _Fit(shares, known, lengths, other_lengths)
    weights = fit.solve()
    if weights[2].sum() < 0:
        weights[2] *= -1
    rates = fit.rates(weights)
    errors = fit.errors(weights, rates)
    readings = tuple(
        AtEqualLength(
            float(rates[m]),
            float(errors[m]),
            float(weights[1, m]),
            float(lengths[m][known[m]].mean()),
            float(other_lengths[m][known[m]].mean()),
            int(known[m].sum()),
        )
        for m in range(len(shares))
    )
    gamma = fit.posterior(weights)[0] @ fit.nodes
    return Joint(readings, _floats(weights[0]), _floats(weights[2]), gamma)


class _Fit:
    """The marginal likelihood of weights (3, M): θ, φ, ψ."""

    def __init__(
        self, shares: np.ndarray, known: np.ndarray, lengths: np.ndarray, others: np.ndarray
    ) -> None:
        nodes, mass = np.polynomial.hermite_e.hermegauss(NODES)
        self.nodes, self.log_mass = nodes, np.log(mass / mass.sum())
        self.known, self.y = known, np.where(known, shares, 0.0)
        terms = [
            length_term(*(x[m][known[m]] for x in (lengths, others))) for m in range(len(known))
        ]
        self.x = np.zeros(shares.shape)
        for m, term in enumerate(terms):
            self.x[m, known[m]] = term

    def solve(self) -> np.ndarray:
        """The weights of the highest penalised likelihood."""
        models = len(self.y)
        start = np.zeros((3, models))
        start[2] = 0.5  # at 0 its gradient vanishes
        found = minimize(
            lambda flat: [part / self.y.size for part in self._loss(flat.reshape(3, models))],
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "ftol": 1e-13, "gtol": 1e-8},
        )
        return np.asarray(found.x).reshape(3, models)

    def posterior(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The probability of each node given an instruction's verdicts (X, K), log-likelihoods (X),
        and the probability of a win at each node (M, X, K)."""
        z = (weights[0][:, None] + weights[1][:, None] * self.x)[:, :, None]
        z = z + weights[2][:, None, None] * self.nodes
        y = self.y[:, :, None]
        each = np.where(self.known[:, :, None], log_expit(z) - (1 - y) * z, 0.0)
        joint = each.sum(axis=0) + self.log_mass
        total = logsumexp(joint, axis=1)
        return np.exp(joint - total[:, None]), total, expit(z)

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods (X), and their gradients by θ, φ, ψ: (X, 3, M)."""
        share, total, p = self.posterior(weights)
        rest = np.where(self.known[:, :, None], self.y[:, :, None] - p, 0.0)
        by_theta = np.einsum("mxk,xk->xm", rest, share)
        by_psi = np.einsum("mxk,xk,k->xm", rest, share, self.nodes)
        return total, np.stack([by_theta, by_theta * self.x.T, by_psi], axis=1)

    def rates(self, weights: np.ndarray) -> np.ndarray:
        """Each model's mean rate at equal length over the instructions judged of it (M)."""
        each = self._at_equal_length(weights)
        return np.asarray((each * self.known).sum(axis=1) / self.known.sum(axis=1))

    def errors(self, weights: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """Standard errors of rates over instructions, by their influence on weights and mean."""
        shape, size = weights.shape, weights.size
        curvature, slopes = np.empty((size, size)), np.empty((size, len(rates)))
        for place in range(size):
            ends = []
            for sign in (1, -1):
                moved = weights.copy().ravel()
                moved[place] += sign * STEP
                ends.append((self._loss(moved.reshape(shape))[1], self.rates(moved.reshape(shape))))
            curvature[place] = (ends[0][0] - ends[1][0]) / (2 * STEP)
            slopes[place] = (ends[0][1] - ends[1][1]) / (2 * STEP)
        by_instruction = self.scores(weights)[1].reshape(-1, size)
        of_weights = by_instruction @ np.linalg.solve((curvature + curvature.T) / 2, slopes)
        each = (self._at_equal_length(weights) - rates[:, None]) * self.known
        influence = of_weights + (each / self.known.sum(axis=1, keepdims=True)).T
        return np.asarray(np.sqrt((influence**2).sum(axis=0)))

    def _loss(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradients = self.scores(weights)
        value = -total.sum() + RIDGE * (weights**2).sum()
        return float(value), (2 * RIDGE * weights - gradients.sum(axis=0)).ravel()

    def _at_equal_length(self, weights: np.ndarray) -> np.ndarray:
        """The rate of each model on each instruction, given all verdicts on it (M, X)."""
        share = self.posterior(weights)[0]
        p = expit(weights[0][:, None] + weights[2][:, None] * self.nodes)
        return np.asarray(p @ share.T)


def _floats(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

"""Seeds crossed with prompts: a mean over both, uncertain for both reasons at once.

Every model of a seed answers every prompt. value = mean + seed + prompt + rest, all three random
(two-way random effects, one value a cell); variances by the method of moments (Searle, Casella,
McCulloch 1992, §4.2), degrees of freedom of Satterthwaite 1946.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

ROUNDING: Final = 1e-12
"""Of the largest mean square: less than that is none, whatever the order of the sums."""
Table = Float64[np.ndarray, "S P"]


@dataclass(frozen=True, slots=True)
class Crossed:
    """A mean over seeds and prompts with its interval, and what it varies with."""

    mean: float
    low: float
    high: float
    se: float
    degrees: float
    """Satterthwaite's degrees of freedom."""
    seeds: int
    prompts: int
    seed_variance: float
    """Variance between seeds; 0 where the moments say less."""
    prompt_variance: float
    rest_variance: float

    def mirrored(self) -> Crossed:
        """The same of 1 − value: a win rate from the other side."""
        kept = self.se, self.degrees, self.seeds, self.prompts
        variances = self.seed_variance, self.prompt_variance, self.rest_variance
        return Crossed(1 - self.mean, 1 - self.high, 1 - self.low, *kept, *variances)


def crossed(values: Sequence[Sequence[float]] | Table, level: float = 0.95) -> Crossed:
    """The mean of values[seed, prompt] with its interval under the crossed model.

    With mean squares M_s, M_p, M_e of seeds, prompts, and rest, the variance of the mean is
    (M_s + M_p − M_e) / SP; where an estimated variance of seeds or prompts is negative it counts as
    0, which leaves the other mean square alone, or M_e. Raises ValueError for fewer than two seeds
    or prompts, rows of unequal lengths, or a value that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        shape = "×".join(map(str, table.shape))
        raise ValueError(f"{shape} values: two seeds and two prompts are needed, all finite")
    s, p = table.shape
    if np.ptp(table) == 0:  # exactly: the mean of equal values is rounded, and they differ from it
        same = float(table[0, 0])
        return Crossed(same, same, same, 0.0, float((s - 1) * (p - 1)), s, p, 0.0, 0.0, 0.0)
    mean = float(table.mean())
    by_seed, by_prompt = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    rest = table - mean - by_seed[:, None] - by_prompt[None, :]
    degrees = (s - 1, p - 1, (s - 1) * (p - 1))
    squares = (
        p * float((by_seed**2).sum()) / degrees[0],
        s * float((by_prompt**2).sum()) / degrees[1],
        float((rest**2).sum()) / degrees[2],
    )
    least = ROUNDING * max(squares)
    beyond = [squares[k] - squares[2] for k in (0, 1)]
    of_seeds, of_prompts = (x if x > least else 0.0 for x in beyond)
    # Which mean squares make up the variance of the mean, each with its sign.
    used = {
        (True, True): (1, 1, -1),
        (True, False): (1, 0, 0),
        (False, True): (0, 1, 0),
        (False, False): (0, 0, 1),
    }[of_seeds > 0, of_prompts > 0]
    total = sum(sign * square for sign, square in zip(used, squares, strict=True))
    parts = zip(used, squares, degrees, strict=True)
    around = 1 / sum((square / total) ** 2 / n for sign, square, n in parts if sign)
    se = math.sqrt(total / table.size)
    half = float(stdtrit(around, (1 + level) / 2)) * se
    variances = of_seeds / p, of_prompts / s, squares[2]
    return Crossed(mean, mean - half, mean + half, se, around, s, p, *variances)

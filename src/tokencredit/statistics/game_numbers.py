"""How well sums of advantages say who wins a game of two answers, on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokencredit.statistics.intervals import wilson


@dataclass(frozen=True, slots=True)
class GameNumbers:
    """What pairs say of an advantage model, each read in both orders."""

    pairs: int
    mse: float
    """Mean of (r − Σ Â)² over both orders; 1 for advantages of 0 where there are no ties."""
    sign_accuracy: float | None
    """Share of the games with a winner whose winner Σ Â names; a sum of 0 is half. None without."""
    sign_accuracy_low: float | None
    sign_accuracy_high: float | None
    """95 % interval of Wilson (1927), over pairs: the two orders of one are one trial."""
    antisymmetry_gap: float
    """Mean of |S(y₁, y₂) + S(y₂, y₁)|."""
    centring_residual: float
    """The greatest |Σ_z π(z|s) Â(s, z)|; 0 but for rounding."""


def game_numbers(
    there: Sequence[float], back: Sequence[float], outcomes: Sequence[float], residual: float
) -> GameNumbers:
    """The numbers of at least one pair: Σ Â in its order and in the other, and the reward r of who
    is first in the first one."""
    first, second, won = (np.asarray(side, dtype=float) for side in (there, back, outcomes))
    errors = np.concatenate([won - first, -won - second])
    decided = won != 0
    share = low = high = None
    if decided.any():
        signs = np.concatenate([first[decided] * won[decided], -second[decided] * won[decided]])
        share = float(((signs > 0) + 0.5 * (signs == 0)).mean())
        low, high = wilson(share, int(decided.sum()))
    return GameNumbers(
        pairs=len(won),
        mse=float(np.square(errors).mean()),
        sign_accuracy=share,
        sign_accuracy_low=low,
        sign_accuracy_high=high,
        antisymmetry_gap=float(np.abs(first + second).mean()),
        centring_residual=residual,
    )

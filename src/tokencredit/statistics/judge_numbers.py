"""How well judges of single tokens know held-out responses, on plain numbers: sums of advantages,
which say who wins a game of two answers, and models of what was said given how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokencredit.statistics.intervals import from_error, ratio_error, wilson


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


@dataclass(frozen=True, slots=True)
class Told:
    """One response and what both models say of all its tokens."""

    prompt: int
    """Which prompt it answers; responses to one are not independent."""
    tokens: int
    outcome: int
    log_h: Sequence[float]
    """Σ_t log h(y_t | y_<t, x, o), by outcome o."""
    log_pi: float
    """Σ_t log π(y_t | y_<t, x)."""
    lost: float
    """Σ_t of π's probability on tokens that h makes impossible."""


@dataclass(frozen=True, slots=True)
class HindsightNumbers:
    """Losses and information in nats a token, and how well the outcome can be told."""

    responses: int
    loss_told: float
    """−log h with the right outcome."""
    loss_untold: float
    """−log π: what is known without an outcome, the baseline of `loss_told`."""
    information: float
    """Their difference, the mean of c. It is at most I(A; f | x), what tokens and outcome tell of
    one another: E c = I − E KL(true h ‖ h)."""
    information_low: float
    information_high: float
    """95 % t interval over prompts, by the delta method."""
    outcome_accuracy: float
    """Share of responses whose outcome is the one under which h likes them best."""
    outcome_accuracy_low: float
    outcome_accuracy_high: float
    """95 % interval of Wilson (1927), over prompts: responses to one are one trial."""
    outcome_baseline: float
    """Share of the most frequent outcome, which who always names it gets right."""
    lost_mass: float
    """Mean over tokens of π's probability on tokens that h makes impossible."""


def hindsight_numbers(told: Sequence[Told]) -> HindsightNumbers:
    """The numbers of at least one response."""
    prompts = sorted({each.prompt for each in told})
    place = {prompt: n for n, prompt in enumerate(prompts)}
    gained, counts = np.zeros(len(prompts)), np.zeros(len(prompts))
    for each in told:
        gained[place[each.prompt]] += each.log_h[each.outcome] - each.log_pi
        counts[place[each.prompt]] += each.tokens
    tokens = float(counts.sum())
    found = float(gained.sum()) / tokens
    information = from_error(found, ratio_error(gained.tolist(), counts.tolist()), len(prompts))
    right = [int(np.argmax(each.log_h)) == each.outcome for each in told]
    accuracy = sum(right) / len(told)
    low, high = wilson(accuracy, len(prompts))
    return HindsightNumbers(
        responses=len(told),
        loss_told=-sum(each.log_h[each.outcome] for each in told) / tokens,
        loss_untold=-sum(each.log_pi for each in told) / tokens,
        information=information.mean,
        information_low=information.low,
        information_high=information.high,
        outcome_accuracy=accuracy,
        outcome_accuracy_low=low,
        outcome_accuracy_high=high,
        outcome_baseline=float(np.bincount([each.outcome for each in told]).max()) / len(told),
        lost_mass=sum(each.lost for each in told) / tokens,
    )

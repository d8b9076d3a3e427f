"""What held-out responses say of a hindsight model, on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokencredit.statistics.intervals import from_error, ratio_error, wilson


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

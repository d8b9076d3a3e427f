"""How well a discriminator tells good tokens from bad ones, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tokencredit.statistics.intervals import wilson
from tokencredit.statistics.pair_numbers import (
    ReliabilityBin,
    calibration_error,
    reliability_bins,
)

THRESHOLD: Final = 0.6
"""Of three classes, a token is neutral where neither good nor bad has this probability."""
BARS: Final = 20
"""Bars of the histograms of probabilities."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The tokens of one answer, its end token left out."""

    log_odds: Sequence[float]
    """log D − log(1 − D) of each, D the probability that it is good."""
    targets: Sequence[float]
    """1 for a good token, 0 for a bad one, ½ for a neutral one."""


@dataclass(frozen=True, slots=True)
class TokenNumbers:
    """What held-out pairs of a rejected answer and its revision say of a discriminator."""

    pairs: int
    tokens: int
    edited: int
    """Tokens that are good or bad; the others are neutral."""
    good_share: float
    """Of the edited tokens, the share that is good: what a constant guess is right or wrong on."""
    accuracy: float
    """Share of the edited tokens with the likelier class their own; D = ½ counts half."""
    accuracy_low: float
    accuracy_high: float
    """95 % interval of Wilson (1927), for as many tokens as would vary as much if tokens of one
    pair did not resemble each other."""
    three_class_accuracy: float
    """Share of all tokens whose class, good, bad, or neutral, is found; neutral below THRESHOLD."""
    authors_revised: float
    """Good tokens that are found, as a share of all tokens of revised answers: the formula of the
    released code, which neutral tokens can only lower."""
    authors_rejected: float
    """Bad tokens that are found, as a share of all tokens of rejected answers."""
    f1: float
    """Of the class good among edited tokens: 2 TP / (2 TP + FP + FN)."""
    loss: float
    """The loss that is trained, on these pairs; 2 log 2 where all D are ½."""
    calibration_error: float
    """Expected calibration error on edited tokens, over bins of the likelier class's
    probability."""
    reliability: list[ReliabilityBin]
    histogram: dict[str, list[int]]
    """How many tokens of each class, good, bad, and neutral, have which D: bars from 0 to 1."""


def token_numbers(revised: Sequence[Judged], rejected: Sequence[Judged]) -> TokenNumbers:
    """Every number of `TokenNumbers`; revised[i] was made from rejected[i].

    Raises ValueError for unequal numbers of answers, or where no token is edited.
    """
    if len(revised) != len(rejected):
        raise ValueError(f"{len(revised)} and {len(rejected)} answers: pairs need equally many")
    sides = [(each, pair) for side in (revised, rejected) for pair, each in enumerate(side)]
    odds = np.concatenate([np.asarray(each.log_odds, np.float64) for each, _ in sides])
    wanted = np.concatenate([np.asarray(each.targets, np.float64) for each, _ in sides])
    pair_of = np.concatenate([np.full(len(each.targets), pair) for each, pair in sides])
    is_revised = np.arange(len(odds)) < sum(len(each.targets) for each in revised)
    edited = wanted != 0.5
    if not edited.any():
        raise ValueError(f"{len(odds)} tokens: none is edited")
    margins = (odds * (2 * wanted - 1))[edited]  # the log-odds of a token's own class
    right = np.where(margins == 0, 0.5, margins > 0)
    accuracy = float(right.mean())
    low, high = wilson(accuracy, _independent(right, pair_of[edited]))
    bins = reliability_bins(margins, right)
    good, bad = wanted == 1, wanted == 0
    found, called = (good & (odds > 0)).sum(), (edited & (odds > 0)).sum()
    said = _classes(odds)
    return TokenNumbers(
        pairs=len(revised),
        tokens=len(odds),
        edited=int(edited.sum()),
        good_share=float(good.sum() / edited.sum()),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        three_class_accuracy=float((said == wanted).mean()),
        authors_revised=float(found / max(1, is_revised.sum())),
        authors_rejected=float((bad & (odds < 0)).sum() / max(1, (~is_revised).sum())),
        f1=float(2 * found / max(1, called + good.sum())),
        loss=sum(map(_loss, [*revised, *rejected])) / len(revised),
        calibration_error=calibration_error(bins),
        reliability=bins,
        histogram=_histogram(odds, {"good": good, "bad": bad, "neutral": ~edited}),
    )


def _independent(right: np.ndarray, pair_of: np.ndarray) -> float:
    """How many independent tokens would give the accuracy the variance that pairs of correlated
    tokens give it; at most as many as there are, and the number of pairs where all agree."""
    groups = np.unique(pair_of, return_inverse=True)[1]
    count, total, share = int(groups.max()) + 1, len(right), float(right.mean())
    residuals = np.bincount(groups, weights=right - share)
    if count < 2:
        return 1.0
    variance = count / (count - 1) * float((residuals**2).sum()) / total**2
    if variance == 0:
        return float(count)
    # A share without spread of its own, such as all ties, has the variance of no coin.
    return min(float(total), max(1.0, share * (1 - share) / variance))


def _classes(odds: np.ndarray) -> np.ndarray:
    """The class of each token at THRESHOLD, as its target: 1, 0, or ½."""
    least = math.log(THRESHOLD / (1 - THRESHOLD))
    return np.where(odds >= least, 1.0, np.where(odds <= -least, 0.0, 0.5))


def _loss(answer: Judged) -> float:
    """Mean of −p log D − (1 − p) log(1 − D) over the tokens of one answer; 0 without tokens."""
    if not answer.targets:
        return 0.0
    odds, wanted = np.asarray(answer.log_odds, float), np.asarray(answer.targets, float)
    return float((np.logaddexp(0.0, odds) - wanted * odds).mean())


def _histogram(odds: np.ndarray, classes: dict[str, np.ndarray]) -> dict[str, list[int]]:
    edges = np.linspace(0.0, 1.0, BARS + 1)
    probabilities = 0.5 * (1 + np.tanh(odds / 2))
    return {
        name: [int(n) for n in np.histogram(probabilities[inside], bins=edges)[0]]
        for name, inside in classes.items()
    }

"""How well scores order pairs of answers: accuracy, margins, and calibration, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tokencredit.statistics.intervals import wilson

BINS: Final = 10
"""Bins of the reliability diagram, over probabilities from ½ to 1."""
BARS: Final = 20
"""Bars of the histogram of margins."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs, or tokens, of which the model is about equally sure."""

    low: float
    high: float
    pairs: int
    confidence: float | None
    """Mean probability that the model gives to its own choice; None without pairs."""
    accuracy: float | None
    """Share of them in which its choice is the preferred answer."""


@dataclass(frozen=True, slots=True)
class PairNumbers:
    """What held-out pairs say of a model whose score decides between two answers."""

    pairs: int
    accuracy: float
    """Share of pairs whose chosen answer scores higher; equal scores are half."""
    accuracy_low: float
    accuracy_high: float
    """95 % interval of Wilson (1927)."""
    loss: float
    """Mean of −log σ(margin), margin = score of chosen − score of rejected; log 2 for a coin."""
    margin_mean: float
    margin_std: float
    margin_edges: list[float]
    margin_counts: list[int]
    calibration_error: float
    """Expected calibration error: mean of |accuracy − confidence| over bins, weighted by pairs."""
    reliability: list[ReliabilityBin]
    score_mean: float
    score_std: float
    """Over chosen and rejected answers together."""
    chosen_mean: float
    rejected_mean: float


def pair_numbers(chosen: Sequence[float], rejected: Sequence[float]) -> PairNumbers:
    """Every number of `PairNumbers`; chosen[i] and rejected[i] answer the same prompt."""
    if len(chosen) != len(rejected) or not chosen:
        raise ValueError(f"{len(chosen)} and {len(rejected)} scores: pairs need equally many, >= 1")
    better, worse = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    margins = better - worse
    right = np.where(margins == 0, 0.5, margins > 0)
    low, high = wilson(float(right.mean()), len(right))
    counts, edges = np.histogram(margins, bins=BARS, range=_range(margins))
    reliability = reliability_bins(margins, right)
    together = np.concatenate([better, worse])
    return PairNumbers(
        pairs=len(margins),
        accuracy=float(right.mean()),
        accuracy_low=low,
        accuracy_high=high,
        loss=float(np.logaddexp(0.0, -margins).mean()),
        margin_mean=float(margins.mean()),
        margin_std=float(margins.std()),
        margin_edges=[float(edge) for edge in edges],
        margin_counts=[int(count) for count in counts],
        calibration_error=calibration_error(reliability),
        reliability=reliability,
        score_mean=float(together.mean()),
        score_std=float(together.std()),
        chosen_mean=float(better.mean()),
        rejected_mean=float(worse.mean()),
    )


def _range(margins: np.ndarray) -> tuple[float, float]:
    """Bounds for a histogram that is symmetric around 0, where the model changes its mind."""
    widest = float(np.abs(margins).max())
    # Below the smallest normal number it has no room for bars.
    return (-widest, widest) if widest >= np.finfo(np.float64).tiny else (-1.0, 1.0)


def reliability_bins(margins: np.ndarray, right: np.ndarray) -> list[ReliabilityBin]:
    """Choices of about equal certainty σ(|margin|) together, and how many of each are `right`."""
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    edges = np.linspace(0.5, 1.0, BINS + 1)
    place = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, BINS - 1)
    bins = []
    for index in range(BINS):
        inside = place == index
        count = int(inside.sum())
        bins.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                pairs=count,
                confidence=float(sure[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return bins


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The mean of |accuracy − confidence| over bins, weighted by what each holds."""
    total = sum(each.pairs for each in bins)
    gaps = (
        each.pairs * abs(each.accuracy - each.confidence)
        for each in bins
        if each.accuracy is not None and each.confidence is not None
    )
    return math.fsum(gaps) / total

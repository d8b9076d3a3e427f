"""Length-controlled win rates with instruction difficulty, on verdicts whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from tokencredit.statistics.difficulty import Joint, jointly_at_equal_length
from tokencredit.statistics.length_control import at_equal_length

THETA = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 0.3])
PHI = np.array([0.0, 1.5, 0.5, -1.0, 0.0, 1.0])
PSI = np.array([1.0, 2.0, 0.5, 1.5, 1.0, 3.0])


def made(
    theta: np.ndarray, phi: np.ndarray, psi: np.ndarray, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts, lengths of models and baseline, and the difficulty of each instruction."""
    draw = np.random.default_rng(seed)
    models = len(theta)
    gamma = draw.normal(size=count)
    other = np.tile(draw.normal(500, 80, count), (models, 1))
    own = other + draw.normal(60, 100, (models, count))
    gap = own - other
    x = np.tanh(gap / np.sqrt((gap**2).mean(axis=1, keepdims=True)))
    p = expit(theta[:, None] + phi[:, None] * x + psi[:, None] * gamma)
    return (draw.random(p.shape) < p).astype(float), own, other, gamma


@pytest.fixture(scope="module")
def truth() -> tuple[Joint, np.ndarray, np.ndarray]:
    shares, own, other, gamma = made(THETA, PHI, PSI, 3000)
    return jointly_at_equal_length(shares, own, other), gamma, shares


def test_the_truth_is_found(truth: tuple[Joint, np.ndarray, np.ndarray]) -> None:
    found, gamma, shares = truth
    assert np.abs(np.array(found.abilities) - THETA).max() < 0.25
    assert np.abs(np.array([r.slope for r in found.readings]) - PHI).max() < 0.3
    assert np.abs(np.array(found.loadings) - PSI).max() < 0.45
    assert np.corrcoef(found.difficulties, gamma)[0, 1] > 0.8
    rates = expit(THETA[:, None] + PSI[:, None] * gamma).mean(axis=1)
    for reading, rate, raw in zip(found.readings, rates, shares.mean(axis=1), strict=True):
        assert abs(reading.rate - rate) < 3.5 * reading.se < 0.07
        assert reading.n == 3000 and reading.length - reading.other_length == pytest.approx(
            60, abs=9
        )
        assert abs(raw - rate) < 0.12
    assert abs(shares[1].mean() - rates[1]) > 4 * found.readings[1].se, "length had its part"


def test_without_the_term_abilities_would_be_taken_for_smaller() -> None:
    """A logistic model that knows no difficulty sees log-odds that are averaged over it."""
    theta, psi = np.full(4, 1.5), np.full(4, 2.5)
    shares, own, other, _ = made(theta, np.full(4, 2.0), psi, 3000, seed=1)
    found = jointly_at_equal_length(shares, own, other)
    alone = [at_equal_length(*(x[m].tolist() for x in (shares, own, other))) for m in range(4)]
    assert np.mean(found.abilities) == pytest.approx(1.5, abs=0.15)
    assert np.mean([r.slope for r in found.readings]) == pytest.approx(2.0, abs=0.2)
    assert max(r.slope for r in alone) < 1.5


def test_verdicts_that_no_difficulty_moves_leave_what_was_without_it() -> None:
    theta, phi = np.array([0.5, -0.5, 1.0]), np.array([1.0, 0.0, 2.0])
    shares, own, other, _ = made(theta, phi, np.zeros(3), 2500, seed=3)
    found = jointly_at_equal_length(shares, own, other)
    for m, reading in enumerate(found.readings):
        alone = at_equal_length(*(x[m].tolist() for x in (shares, own, other)))
        assert reading.rate == pytest.approx(alone.rate, abs=0.01)
        assert reading.se == pytest.approx(alone.se, rel=0.15)


def test_at_equal_lengths_the_rate_and_its_error_are_the_raw_ones() -> None:
    """Whatever the difficulties are: what is added explains verdicts and moves no mean."""
    shares, own, _, _ = made(THETA, PHI, PSI, 800, seed=4)
    found = jointly_at_equal_length(shares, own, own)
    for reading, raw in zip(found.readings, shares, strict=True):
        assert reading.rate == pytest.approx(raw.mean(), abs=2e-3) and reading.slope == 0
        assert reading.se == pytest.approx(raw.std() / 800**0.5, rel=0.03)


def test_errors_are_those_of_drawing_instructions_again() -> None:
    """40 data sets of 200 instructions: the spread of rates is the mean standard error."""
    draws = [made(THETA[:3], PHI[:3], PSI[:3], 200, seed=100 + k) for k in range(40)]
    found = [jointly_at_equal_length(*draw[:3]).readings for draw in draws]
    for m in range(3):
        rates, errors = (np.array([getattr(r[m], name) for r in found]) for name in ("rate", "se"))
        assert rates.std(ddof=1) == pytest.approx(errors.mean(), rel=0.35)


def test_swapping_models_and_baseline_mirrors() -> None:
    shares, own, other, _ = made(THETA[:4], PHI[:4], PSI[:4], 400, seed=5)
    there = jointly_at_equal_length(shares, own, other)
    back = jointly_at_equal_length(1 - shares, other, own)
    for one, two in zip(there.readings, back.readings, strict=True):
        assert one.rate == pytest.approx(1 - two.rate, abs=1e-4)
        assert one.se == pytest.approx(two.se, rel=1e-2)


def test_missing_verdicts_and_draws_are_allowed() -> None:
    shares, own, other, gamma = made(THETA, PHI, PSI, 1000, seed=6)
    shares[0, :250] = np.nan
    shares[1, 500:520] = 0.5
    found = jointly_at_equal_length(shares, own, other)
    assert [reading.n for reading in found.readings] == [750, *[1000] * 5]
    rate = expit(THETA[0] + PSI[0] * gamma[250:]).mean()
    assert abs(found.readings[0].rate - rate) < 3.5 * found.readings[0].se


def test_models_that_always_win_stay_finite() -> None:
    shares = np.ones((3, 40))
    lengths = np.arange(120.0).reshape(3, 40)
    found = jointly_at_equal_length(shares, lengths, lengths[::-1])
    assert all(0.9 < r.rate < 1 and np.isfinite([r.se, r.slope]).all() for r in found.readings)


@pytest.mark.parametrize("shape", [(2, 5), (3, 5)])
def test_what_cannot_be_fitted_is_refused(shape: tuple[int, int]) -> None:
    shares = np.ones(shape)
    if len(shares) == 3:
        shares[1] = np.nan
    match = "at least 3 models" if len(shares) == 2 else "a model without a verdict"
    with pytest.raises(ValueError, match=match):
        jointly_at_equal_length(shares, np.ones(shape), np.ones(shape))

"""Tests of differences: by hand, against scipy and published tables, and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from tokencredit.statistics.testing import (
    compare,
    correlation,
    correlation_p,
    holm,
    power,
    seeds_for,
    welch,
)


def test_welch_by_hand_and_as_scipy() -> None:
    """Variances 5/3 over 4 and 11.45 over 5: se² = 0.41667 + 2.29 = 2.70667 (ddof 1)."""
    a, b = [1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 7.0, 9.0, 1.0]
    found, known = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert found.interval.mean == pytest.approx(2.5 - 4.3)
    assert found.interval.se == pytest.approx(math.sqrt(5 / 3 / 4 + np.var(b, ddof=1) / 5))
    assert found.p == pytest.approx(known.pvalue) and found.degrees == pytest.approx(known.df)
    ends = known.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))
    assert found.interval.n == 4 and not found.paired and found.decided == 0
    assert found.sd == pytest.approx(math.sqrt((5 / 3 + np.var(b, ddof=1)) / 2))


def test_welch_without_spread_is_the_difference_itself() -> None:
    apart, same = welch([3.0, 3.0], [1.0, 1.0]), welch([1.0, 1.0], [1.0, 1.0])
    assert (apart.interval.low, apart.interval.high, apart.p, apart.decided) == (2, 2, 0, 1)
    assert (same.interval.low, same.interval.high, same.p, same.decided) == (0, 0, 1, 0)
    tiny = welch([1e-100, 3e-100], [0.0, 0.0])
    assert math.isfinite(tiny.p) and tiny.degrees == pytest.approx(1)
    with pytest.raises(ValueError, match="1 and 2 values"):
        welch([1.0], [1.0, 2.0])


def test_pairs_are_used_where_they_help_and_the_correlation_is_kept() -> None:
    """b is a plus 1 and a little: r near 1, and differences of mean −1 and sd 0.1."""
    a = {seed: float(seed) for seed in range(5)}
    b = {seed: x + 1 + (0.1 if seed % 2 else -0.1) for seed, x in a.items()}
    found = compare(a, b)
    assert found is not None and found.paired and found.decided == -1
    assert found.interval.mean == pytest.approx(-0.98) and found.degrees == 4
    assert found.sd == pytest.approx(np.std([-0.9, -1.1, -0.9, -1.1, -0.9], ddof=1))
    assert found.correlation is not None and found.correlation > 0.99
    against = compare(a, {seed: 4 - x for seed, x in a.items()})
    assert against is not None and not against.paired and against.correlation == pytest.approx(-1)
    assert against.interval == welch([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]).interval


def test_groups_of_other_seeds_are_not_paired_however_alike() -> None:
    a = {seed: float(seed) for seed in range(6)}
    found = compare(a, {seed: x for seed, x in a.items() if seed < 5})
    assert found is not None and not found.paired and found.correlation == pytest.approx(1)
    assert compare(a, {0: 1.0}) is None
    two = compare({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert two is not None and not two.paired and two.correlation is None


def test_correlations_by_hand() -> None:
    assert correlation([1, 2, 3], [2, 4, 7]) == pytest.approx(5 / math.sqrt(2 * 38 / 3))
    assert correlation([1, 1, 1], [2, 4, 7]) is None and correlation([1, 2], [2, 4]) is None
    known = stats.pearsonr([1, 2, 3, 4, 6], [2, 1, 4, 3, 7], alternative="greater")
    assert correlation_p(known.statistic, 5) == pytest.approx(known.pvalue)
    assert correlation_p(1.0, 3) == 0 and correlation_p(-1.0, 3) == 1
    with pytest.raises(ValueError, match="three"):
        correlation_p(0.5, 2)


def test_power_of_published_tables() -> None:
    """Cohen 1988, table 2.3.5: d = 0.5, 64 of each: 80 %; G*Power's manual: 34 pairs, d = 0.5."""
    assert power(64, 0.5, 1.0) == pytest.approx(0.8015, abs=5e-5)
    assert power(34, 0.5, 1.0, paired=True) == pytest.approx(0.8078, abs=5e-5)
    assert power(64, -1.0, 2.0) == power(64, 0.5, 1.0), "effects count in spreads, either way"
    assert seeds_for(0.5, 1.0) == 64 and seeds_for(0.5, 1.0, paired=True) == 34


@pytest.mark.parametrize("n", [2, 3, 10, 40])
@pytest.mark.parametrize("effect", [0.1, 0.6, 1.5])
def test_power_is_that_of_scipys_noncentral_t(n: int, effect: float) -> None:
    df, away = 2 * (n - 1), effect * math.sqrt(n / 2)
    bound = stats.t.ppf(0.975, df)
    known = stats.nct.sf(bound, df, away) + stats.nct.cdf(-bound, df, away)
    assert power(n, effect, 1.0) == pytest.approx(known, abs=1e-7)


def test_the_ends_of_power() -> None:
    assert power(5, 0.0, 1.0) == pytest.approx(0.05), "nothing to find: the test's own level"
    assert power(5, 1e-12, 1.0) == pytest.approx(0.05)
    assert power(5, 1.0, 0.0) == 1 and power(5, 0.0, 0.0) == 0
    assert power(5, 1e6, 1.0) == 1
    assert seeds_for(0.0, 1.0) is None and seeds_for(1e-4, 1.0) is None
    assert seeds_for(1.0, 0.0) == 2 == seeds_for(100.0, 1.0)
    with pytest.raises(ValueError, match="two seeds"):
        power(1, 1.0, 1.0)


@given(some.floats(0.05, 5), some.booleans())
def test_fewer_seeds_than_needed_do_not_decide(effect: float, paired: bool) -> None:
    n = seeds_for(effect, 1.0, paired=paired)
    assert n is not None and power(n, effect, 1.0, paired=paired) >= 0.8
    assert n == 2 or power(n - 1, effect, 1.0, paired=paired) < 0.8


def test_holm_by_hand() -> None:
    """Sorted .005 · 4, .01 · 3, .03 · 2, .04 · 1, the last not below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []
    with pytest.raises(ValueError, match="lie in"):
        holm([1.5])

"""Intervals, tests, and diversity against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokencredit.statistics.intervals import (
    Interval,
    apart,
    authors_interval,
    distinct_n,
    distinct_n_error,
    fisher_exact,
    mean_ci,
    p_value,
    paired_difference,
    spread_ratio,
    standard_errors_apart,
)


def test_mean_ci_is_students_interval() -> None:
    # Deviations -1.5, -0.5, 0.5, 1.5: variance 5 / 3; t(0.975, 3) = 3.182446 from a table.
    se = math.sqrt(5 / 3 / 4)
    found = mean_ci([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.se == pytest.approx(se)
    assert found.low == pytest.approx(2.5 - 3.182446 * se, abs=1e-6)
    assert found.high == pytest.approx(2.5 + 3.182446 * se, abs=1e-6)
    assert found.n == 4


def test_mean_ci_at_another_level() -> None:
    # t(0.75, 1) = tan(pi / 4) = 1, since t with one degree of freedom is Cauchy.
    found = mean_ci([0.0, 2.0], level=0.5)
    assert [found.low, found.high] == pytest.approx([0.0, 2.0])


def test_one_value_has_an_interval_without_width_and_without_nan() -> None:
    assert mean_ci([3.0]) == Interval(mean=3.0, low=3.0, high=3.0, se=0.0, n=1)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_values_and_values_that_are_not_finite_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one is needed, all of them finite"):
        mean_ci(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_zero_and_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        mean_ci([1.0], level)


def test_paired_difference() -> None:
    # Differences 1, 0, 2, 2: mean 5 / 4, squared deviations sum to 11 / 4.
    found = paired_difference([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 1.0, 2.0])
    se = math.sqrt(11 / 4 / 3 / 4)
    t = 1.25 / se
    # Two-sided p of Student's t with three degrees of freedom, in closed form.
    x = t / math.sqrt(3)
    p = 1 - 2 / math.pi * (math.atan(x) + x / (1 + x * x))
    assert found.difference.mean == pytest.approx(1.25)
    assert found.difference.se == pytest.approx(se)
    assert found.t == pytest.approx(t)
    assert found.p == pytest.approx(p)
    assert found.n == 4


def test_paired_difference_changes_sign_with_the_order() -> None:
    a, b = [1.0, 5.0, 2.0], [0.0, 1.0, 3.0]
    assert paired_difference(a, b).t == pytest.approx(-paired_difference(b, a).t)
    assert paired_difference(a, b).p == pytest.approx(paired_difference(b, a).p)


def test_differences_without_spread() -> None:
    certain = paired_difference([2.0, 3.0], [1.0, 2.0])
    assert (certain.t, certain.p) == (math.inf, 0.0)
    assert paired_difference([1.0, 2.0], [2.0, 3.0]).t == -math.inf
    nothing = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (nothing.t, nothing.p) == (0.0, 1.0)


def test_one_pair_proves_nothing() -> None:
    found = paired_difference([5.0], [1.0])
    assert (found.difference.mean, found.t, found.p, found.n) == (4.0, 0.0, 1.0, 1)


def test_pairs_need_equally_many_values() -> None:
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_difference([1.0, 2.0], [1.0])


def test_standard_errors_apart() -> None:
    # Means 2 and 0; standard errors 1 and 0.75, together 1.25.
    assert standard_errors_apart([1.0, 3.0], [-0.75, 0.75]) == pytest.approx(1.6)
    assert standard_errors_apart([-0.75, 0.75], [1.0, 3.0]) == pytest.approx(-1.6)


def test_standard_errors_apart_at_the_edges() -> None:
    assert standard_errors_apart([1.0, 1.0], [0.0, 0.0]) == math.inf
    assert standard_errors_apart([1.0, 1.0], [1.0, 1.0]) == 0.0
    assert standard_errors_apart([9.0], [0.0, 1.0]) == 0.0
    assert standard_errors_apart([0.0, 1.0], [9.0]) == 0.0


def test_apart_takes_what_is_known_of_two_samples() -> None:
    a, b = Interval(1.0, 1.0, 1.0, 0.3, 9), Interval(0.0, 0.0, 0.0, 0.4, 9)
    assert apart(a, b) == pytest.approx(2.0)


def test_distinct_n_counts_across_texts_but_not_across_their_borders() -> None:
    # Bigrams: ab, ba, ab | ab: two of four. "b a" spans the border and does not count.
    assert distinct_n(["a b a b", "a b"], 2) == 0.5
    assert distinct_n(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct_n(["a  b\nc"], 2) == 1.0


def test_texts_too_short_for_an_ngram_give_zero() -> None:
    assert distinct_n(["a", ""], 2) == 0.0
    assert distinct_n([], 2) == 0.0
    with pytest.raises(ValueError, match="n = 0"):
        distinct_n(["a"], 0)


def test_papers_A11_the_authors_interval_is_narrower_than_students() -> None:
    """1, 3: mean 2, sd (ddof 0) 1, so 2/√2; for five values t is 1.388 · 1.118 times as wide."""
    assert authors_interval([1.0, 3.0]) == pytest.approx((2.0, math.sqrt(2)))
    values = [1.0, 2.0, 4.0, 3.0, 7.0]
    _, half = authors_interval(values)
    x = mean_ci(values)
    assert (x.high - x.low) / 2 / half == pytest.approx(1.388 * 1.118, abs=1e-3)


def test_spread_ratio_ends_at_one_where_pitman_and_morgan_find_p() -> None:
    """Correlation of sums and differences −0.95182 with three degrees of freedom: p = 0.0126025."""
    a, b = [1.0, 2.0, 4.0, 3.0, 7.0], [2.0, 5.0, 4.0, 9.0, 20.0]
    x = spread_ratio(a, b)
    assert (x.mean, x.n) == (pytest.approx(0.3207999710), 5)
    assert x.low < x.mean < x.high < 1
    assert spread_ratio(a, b, 1 - 0.012602527567).high == pytest.approx(1, abs=1e-9)
    turned = spread_ratio(b, a)
    assert (turned.low, turned.high) == pytest.approx((1 / x.high, 1 / x.low))


def test_spread_ratio_needs_spread_and_three_pairs() -> None:
    for a, b in (([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match=r"pairs|spread"):
            spread_ratio(a, b)


def test_fisher_by_hand() -> None:
    """3 of 10 and 0 of 30: C(10, 3) / C(40, 3) = 120 / 9880; 1 of 10 and 11 of 14 by tables."""
    assert fisher_exact(3, 10, 0, 30) == pytest.approx(120 / 9880)
    assert fisher_exact(1, 10, 11, 14) == pytest.approx(0.00275946, abs=1e-8)
    assert fisher_exact(2, 4, 2, 4) == pytest.approx(1.0)
    assert fisher_exact(0, 4, 0, 9) == 1.0


def test_the_error_of_distinct_n_is_the_jackknife_of_hand() -> None:
    texts = ["a b c", "a b", "c d a b"]  # ab bc | ab | cd da ab: 4 of 6
    left = [3 / 4, 4 / 5, 2 / 3]
    mean = sum(left) / 3
    by_hand = math.sqrt(2 / 3 * sum((x - mean) ** 2 for x in left))
    assert distinct_n_error(texts, 2) == pytest.approx(by_hand, rel=1e-12)
    assert distinct_n_error(texts[::-1], 2) == pytest.approx(by_hand, rel=1e-12)


def test_the_error_of_distinct_n_without_spread() -> None:
    assert distinct_n_error([], 2) == distinct_n_error(["a b c"], 2) == 0.0
    assert distinct_n_error(["a", "b", ""], 2) == 0.0
    assert distinct_n_error(["a b", "a b"], 2) == 0.0
    assert distinct_n_error(["a b", "c"], 2) > 0


def test_the_error_of_distinct_n_is_the_spread_of_corpora() -> None:
    draw = np.random.default_rng(0)
    weights = 1 / np.arange(1, 301)

    def corpus() -> list[str]:
        words = draw.choice(300, (64, 16), p=weights / weights.sum())
        sizes = draw.integers(3, 17, 64)
        return [" ".join(map(str, row[:size])) for row, size in zip(words, sizes, strict=True)]

    corpora = [corpus() for _ in range(150)]
    spread = np.std([distinct_n(texts, 2) for texts in corpora], ddof=1)
    error = np.mean([distinct_n_error(texts, 2) for texts in corpora])
    assert 0.8 * spread < error < 1.25 * spread


def test_p_of_an_interval_by_hand() -> None:
    """1, 2, 3 against 0: t = 2 √3 = 3.464 with 2 degrees of freedom, p = .0742; against 2: 1."""
    x = mean_ci([1.0, 2.0, 3.0])
    assert p_value(x) == pytest.approx(0.0742, abs=1e-4)
    assert p_value(x, 2.0) == 1.0
    assert p_value(mean_ci([1.0])) == 1.0 and p_value(mean_ci([1.0, 1.0])) == 0.0

"""Win rates at equal length: a judge that only counts words, one that does not, and symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from tokencredit.statistics.length_control import at_equal_length


def verdicts(skill: float, per_length: float, gap: float, n: int = 4000) -> tuple[np.ndarray, ...]:
    """Shares of a judge that adds skill and a bonus for length; lengths differ by about `gap`."""
    generator = np.random.default_rng(0)
    own, other = generator.normal(100 + gap, 20, n), generator.normal(100, 20, n)
    x = np.tanh((own - other) / np.sqrt(((own - other) ** 2).mean()))
    wins = generator.random(n) < expit(skill + per_length * x)
    return wins.astype(float), own, other


def test_field_E16_a_judge_that_only_likes_length_finds_nobody_better() -> None:
    wins, own, other = verdicts(skill=0.0, per_length=2.0, gap=30)
    assert wins.mean() > 0.7
    found = at_equal_length(wins.tolist(), own.tolist(), other.tolist())
    assert abs(found.rate - 0.5) < 3 * found.se and found.se < 0.02
    assert found.slope == pytest.approx(2.0, abs=0.25)
    assert found.length - found.other_length == pytest.approx(30, abs=2)


def test_skill_survives_and_so_does_a_raw_rate_without_bias() -> None:
    wins, own, other = verdicts(skill=1.0, per_length=1.0, gap=-20)
    found = at_equal_length(wins.tolist(), own.tolist(), other.tolist())
    assert found.rate == pytest.approx(expit(1.0), abs=0.03) and found.rate > wins.mean() + 0.03
    plain, own, other = verdicts(skill=0.7, per_length=0.0, gap=40)
    same = at_equal_length(plain.tolist(), own.tolist(), other.tolist())
    assert same.rate == pytest.approx(plain.mean(), abs=0.03) and abs(same.slope) < 0.2


def test_equal_lengths_leave_the_rate_as_it_is() -> None:
    """Three of four won at one length: 3/4, but for the ridge."""
    found = at_equal_length([1, 1, 1, 0] * 50, [5] * 200, [5] * 200)
    assert found.rate == pytest.approx(0.75, abs=1e-3) and found.slope == 0
    assert found.se == pytest.approx((0.75 * 0.25 / 200) ** 0.5, rel=0.01)


def test_the_standard_error_of_one_draw_by_hand() -> None:
    """Its curvature is ½ · ½, and the ridge 0.05 w² adds 2 · 0.05."""
    found = at_equal_length([0.5], [5], [5])
    assert (found.rate, found.slope) == (0.5, 0.0)
    assert found.se == pytest.approx(0.5 * 0.5 / (0.25 + 0.1) ** 0.5)


def test_verdicts_that_all_agree_stay_finite() -> None:
    found = at_equal_length([1.0] * 20, list(range(20)), [3] * 20)
    assert 0.9 < found.rate < 1 and np.isfinite(found.slope)


rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 50), st.integers(0, 50)),
    min_size=1,
    max_size=12,
)


@given(rows, st.integers(1, 9))
def test_swapping_models_mirrors_and_units_do_not_matter(
    table: list[tuple[float, int, int]], unit: int
) -> None:
    shares, own, other = (list(column) for column in zip(*table, strict=True))
    found = at_equal_length(shares, own, other)
    turned = at_equal_length([1 - s for s in shares], other, own)
    assert turned.rate == pytest.approx(1 - found.rate, abs=1e-7)
    assert turned.slope == pytest.approx(found.slope, abs=1e-6)
    scaled = at_equal_length(shares, [unit * x for x in own], [unit * x for x in other])
    assert scaled.rate == pytest.approx(found.rate, abs=1e-9)


def test_every_prompt_needs_both_lengths() -> None:
    with pytest.raises(ValueError, match="for every prompt"):
        at_equal_length([1.0], [1, 2], [1])
    with pytest.raises(ValueError, match="for every prompt"):
        at_equal_length([], [], [])

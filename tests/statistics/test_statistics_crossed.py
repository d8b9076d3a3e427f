"""Seeds crossed with prompts: by hand, where one of them does not vary, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy.special import stdtrit

from tokencredit.statistics.crossed import crossed
from tokencredit.statistics.intervals import mean_ci


def test_by_hand() -> None:
    """Means of seeds 3 and 6, of prompts too: M_s = M_p = 2 · 4.5 = 9; the rest is ± ½: M_e = 1.

    Variance of the mean (9 + 9 − 1) / 4 = 4.25; degrees 17² / (81 + 81 + 1) = 1.773.
    """
    found = crossed([[2, 4], [4, 8]])
    assert found.mean == 4.5 and found.se == pytest.approx(math.sqrt(4.25))
    assert found.degrees == pytest.approx(289 / 163)
    assert (found.seed_variance, found.prompt_variance, found.rest_variance) == (4, 4, 1)
    half = stdtrit(289 / 163, 0.975) * math.sqrt(4.25)
    assert (found.low, found.high) == pytest.approx((4.5 - half, 4.5 + half))
    assert (found.seeds, found.prompts) == (2, 2)


def test_a_negative_variance_counts_as_none() -> None:
    """M_s = 3 · 2/36 = 1/6 = M_e, so seeds do not vary; M_p = ½ alone: ½ / 6, two degrees."""
    found = crossed([[1, 0, 1], [0, 0, 1]])
    assert found.seed_variance == 0
    assert found.se == pytest.approx(math.sqrt(1 / 12))
    assert found.high - found.mean == pytest.approx(4.30265 * math.sqrt(1 / 12), rel=1e-5)
    # Both means of seeds and both of prompts are ½: the rest alone is left, four times ¼ over 1.
    only_rest = crossed([[1, 0], [0, 1]])
    assert only_rest.se == pytest.approx(0.5) and only_rest.degrees == 1


def test_prompts_that_all_agree_leave_the_interval_over_seeds() -> None:
    values = [[0.2] * 50, [0.5] * 50, [0.6] * 50]
    found, over_seeds = crossed(values), mean_ci([0.2, 0.5, 0.6])
    assert (found.low, found.high) == pytest.approx((over_seeds.low, over_seeds.high))


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Of made-up wins whose seeds and prompts both vary; prompts or seeds alone hold it less often."""
    draw, held = np.random.default_rng(0), {"crossed": 0, "prompts": 0}
    for _ in range(400):
        chance = 0.5 + draw.normal(0, 0.08, (6, 1)) + draw.normal(0, 0.15, (1, 60))
        wins = (draw.random((6, 60)) < chance.clip(0, 1)).astype(float)
        both, prompts = crossed(wins), mean_ci(wins.mean(axis=0).tolist())
        held["crossed"] += both.low <= 0.5 <= both.high
        held["prompts"] += prompts.low <= 0.5 <= prompts.high
    assert 370 <= held["crossed"] <= 395, "95 % of 400 are 380"
    assert held["prompts"] < 345


@given(some.floats(-1e6, 1e6), some.integers(2, 6), some.integers(2, 6))
def test_equal_values_have_no_width(value: float, seeds: int, prompts: int) -> None:
    found = crossed(np.full((seeds, prompts), value))
    assert (found.low, found.mean, found.high, found.se) == (value, value, value, 0)


TABLES = some.lists(
    some.lists(some.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4), min_size=2, max_size=5
)


@given(TABLES)
def test_the_order_of_seeds_and_prompts_does_not_matter(table: list[list[float]]) -> None:
    rows = np.random.default_rng(len(table)).permutation(len(table))
    columns = np.random.default_rng(1).permutation(4)
    found, other = crossed(table), crossed(np.array(table)[rows][:, columns])
    assert (other.low, other.high) == pytest.approx((found.low, found.high), abs=1e-9)
    turned = crossed(1 - np.array(table))
    assert (found.mirrored().low, found.mirrored().high) == pytest.approx(
        (turned.low, turned.high), abs=1e-9
    )


@pytest.mark.parametrize("bad", [[[1.0, 0.0]], [[1.0], [0.0]], [[1.0, math.nan], [0.0, 1.0]]])
def test_what_has_no_interval_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="two seeds and two prompts"):
        crossed(bad)

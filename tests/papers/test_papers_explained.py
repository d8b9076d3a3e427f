"""The share of a gain that a control explains: by hand, by its definition, and where none can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from paper_runs import lines, write_csv
from tokencredit.papers.claims import Claim, judge_claims
from tokencredit.papers.entries import Panel
from tokencredit.papers.sources import read_sources
from tokencredit.papers.verdicts import Finding, Verdict
from tokencredit.statistics.intervals import mean_ci, paired_difference, ratio_of_means

STEPS = 101


def test_fieller_by_hand() -> None:
    """Means 2 and 10, all variances 1, n = 3, t² / n = 6.171: a = 93.83, b = 13.83, c = −2.171."""
    found = ratio_of_means([1.0, 2.0, 3.0], [9.0, 10.0, 11.0])
    assert found is not None and found.n == 3
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, -0.0644, 0.3592), abs=2e-4)


def test_a_share_without_noise_has_no_width() -> None:
    found = ratio_of_means([2.0, 2.5, 3.0], [4.0, 5.0, 6.0])
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(-3, 3), st.floats(2, 4)).map(
            lambda p: (round(p[0], 3), round(p[1], 3))
        ),
        min_size=3,
        max_size=8,
    )
)
def test_at_its_ends_the_t_test_is_just_significant(pairs: list[tuple[float, float]]) -> None:
    top, bottom = [a for a, _ in pairs], [b for _, b in pairs]
    found = ratio_of_means(top, bottom)
    gain = mean_ci(bottom)
    assert (found is None) == (gain.low <= 0 <= gain.high)
    if found is None or found.se < 1e-3:
        return
    assert found.low <= found.mean <= found.high
    critical = float(stdtrit(len(pairs) - 1, 0.975))
    for end in (found.low, found.high):
        test = paired_difference(top, [end * b for b in bottom])
        assert abs(test.t) == pytest.approx(critical, rel=1e-6)


def test_a_gain_that_may_be_nothing_has_no_shares() -> None:
    assert ratio_of_means([1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]) is None
    assert ratio_of_means([1.0], [1.0]) is None


def finding(tmp_path: Path, shuffled: list[float], abc: list[float]) -> Finding:
    """Three seeds; the sparse reward has 0, 1, 2."""
    flat = {"abc": abc, "shuffled": shuffled, "sparse": [0.0, 1.0, 2.0]}
    rows = [
        lines(method, run, [value] * STEPS)
        for method, values in flat.items()
        for run, value in enumerate(values)
    ]
    claim = Claim(
        name="x",
        says="x",
        where="x",
        test="share_explained",
        others=["shuffled"],
        panels=[Panel(task="positive_generation", points=STEPS)],
    )
    (judged,) = judge_claims([claim], read_sources([write_csv(tmp_path / "r.csv", *rows)]))
    return judged.finding


def test_a_control_that_gains_a_fifth(tmp_path: Path) -> None:
    """Gains of 9, 10, 11 and of 1, 2, 3 over the sparse reward of the same seed."""
    found = finding(tmp_path, [1.0, 3.0, 5.0], [9.0, 11.0, 13.0])
    assert found.verdict is Verdict.supported and found.n == 3
    assert "(shuffled − sparse) / (abc − sparse) = 0.200 [-0.064, 0.359]" in found.numbers
    assert "shuffled − sparse = +2.000 [-0.484, +4.484]" in found.numbers


def test_a_control_that_gains_more(tmp_path: Path) -> None:
    assert finding(tmp_path, [30.0, 31.1, 32.0], [9.0, 11.0, 13.0]).verdict is Verdict.contradicted


def test_a_control_that_gains_about_as_much(tmp_path: Path) -> None:
    found = finding(tmp_path, [8.0, 11.5, 13.0], [9.0, 11.0, 13.0])
    assert found.verdict is Verdict.undecided and "= 0.983 [" in found.numbers


def test_no_gain_cannot_be_divided(tmp_path: Path) -> None:
    found = finding(tmp_path, [1.0, 3.0, 5.0], [-1.0, 1.5, 4.0])
    assert found.verdict is Verdict.undecided and "which may be 0" in found.numbers

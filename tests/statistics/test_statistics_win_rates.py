"""Win rates and their errors: numbers by hand, real verdicts, and what must not matter."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencredit.papers.win_tables import (
    crossed_markdown,
    long_csv,
    markdown,
    plain,
    seeds_markdown,
    wide_csv,
)
from tokencredit.statistics.win_rates import (
    against,
    left_out,
    pairings,
    prompts_for,
    shares,
    win_matrix,
    win_rate,
)

SCORES = {
    "RTO": {0: [3.0, 2.0, 1.0, 4.0]},
    "DPO": {0: [1.0, 2.0, 3.0, 0.0]},
    "SFT": {None: [0.0, 5.0, 0.5, 4.0]},
}


def test_a_win_rate_by_hand() -> None:
    """1, 1, ½, 0: mean 5/8, deviations 3/8, 3/8, 1/8, 5/8, so se = √(44/64/3/4)."""
    found = win_rate([1, 1, 0.5, 0])
    assert found.mean == 0.625
    assert found.se == pytest.approx((44 / 64 / 3 / 4) ** 0.5)
    assert (found.n, found.wins, found.draws, found.losses) == (4, 2, 1, 1)


def test_papers_3_5_sampling_error_at_400_and_100_prompts() -> None:
    """At 50 % the standard error is 2.5 points for 400 prompts, 5 for 100."""
    for n, se in ((400, 0.025), (100, 0.05)):
        assert win_rate([0, 1] * (n // 2)).se == pytest.approx(se, rel=0.01)
    assert prompts_for(0.049) == 400


def test_higher_score_wins_and_ties_are_half() -> None:
    assert shares([2, 1, 0], [1, 1, 1]).tolist() == [1, 0.5, 0]
    with pytest.raises(ValueError, match="finite"):
        shares([float("nan")], [0.0])
    with pytest.raises(ValueError, match="each prompt"):
        shares([1.0, 2.0], [0.0])
    with pytest.raises(ValueError, match="0, 1"):
        win_rate([1.5])


def test_the_matrix_by_hand() -> None:
    """RTO wins 1, 4, ties 2, loses 3 against DPO: 5/8."""
    matrix = win_matrix(SCORES)
    assert matrix.rate("RTO", "DPO") == 0.625
    assert matrix.rate("DPO", "RTO") == 0.375
    assert matrix.rate("RTO", "SFT") == 0.625  # won, lost, won, tied
    assert matrix.rate("SFT", "SFT") == 0.5
    assert matrix.wins()[0, 1] == 2.5


def test_tables_have_the_form_of_table_1a_of_rto() -> None:
    matrix = win_matrix(SCORES)
    assert markdown(matrix).splitlines() == [
        "| Win Rate | RTO | DPO | SFT |",
        "| --- | --- | --- | --- |",
        "| RTO | 0.500 | 0.625 | 0.625 |",
        "| DPO | 0.375 | 0.500 | 0.500 |",
        "| SFT | 0.375 | 0.500 | 0.500 |",
    ]
    assert "| 0.625 ± 0.239 |" in markdown(matrix, errors=True)
    assert wide_csv(matrix).splitlines()[:2] == ["Win Rate,RTO,DPO,SFT", "RTO,0.500,0.625,0.625"]
    rows = {(r["row"], r["column"]): r for r in csv.DictReader(io.StringIO(long_csv(matrix)))}
    assert len(rows) == 6
    assert rows["RTO", "DPO"]["prompts"] == "4" and rows["RTO", "DPO"]["seeds"] == ""
    assert plain(matrix)["DPO"]["RTO"]["over_prompts"]["mean"] == 0.375
    assert markdown(win_matrix({"a|b": {0: [1.0]}, "c": {0: [0.0]}})).startswith(
        "| Win Rate | a\\|b |"
    )


numbers = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=3, max_size=3)


@given(st.lists(numbers, min_size=2, max_size=4), st.permutations(range(3)))
def test_a_matrix_is_antisymmetric_and_blind_to_order(
    rows: list[list[float]], order: Sequence[int]
) -> None:
    """m[i,j] + m[j,i] = 1; prompts and names in another order give the same numbers."""
    scores = {f"m{k}": {0: row} for k, row in enumerate(rows)}
    matrix = win_matrix(scores)
    turned = win_matrix(
        {n: {0: [runs[0][k] for k in order]} for n, runs in reversed(scores.items())}
    )
    for row in scores:
        for column in scores:
            rate = matrix.rate(row, column)
            assert rate + matrix.rate(column, row) == 1
            assert turned.rate(row, column) == pytest.approx(rate)
            if row != column:
                cell, other = matrix.cells[row, column].rate, matrix.cells[column, row].rate
                assert cell.se == other.se and cell.wins == other.losses
                assert cell.low == pytest.approx(1 - other.high)
                assert cell.se == pytest.approx(turned.cells[row, column].rate.se)


@given(numbers, numbers, st.floats(0.1, 10), st.floats(-5, 5))
def test_any_rising_scale_of_scores_gives_the_same_rate(
    own: list[float], other: list[float], factor: float, shift: float
) -> None:
    moved = shares([factor * x + shift for x in own], [factor * x + shift for x in other])
    assert moved.tolist() == shares(own, other).tolist()


def test_prompts_are_paired() -> None:
    """The same numbers in another order win differently: nothing is compared across prompts."""
    assert win_rate(shares([1, 3], [0, 2])).mean == 1.0
    assert win_rate(shares([1, 3], [2, 0])).mean == 0.5


def test_seeds_and_prompts_have_intervals_of_their_own() -> None:
    """Three seeds that win 2, 2, and 1 of 2 prompts: t interval of (1, 1, ½) over seeds."""
    runs = {
        "a": {0: [1.0, 1.0], 1: [1.0, 1.0], 2: [1.0, -1.0]},
        "b": dict.fromkeys(range(3), [0.0] * 2),
    }
    found = win_matrix(runs).cells["a", "b"]
    assert found.seeds is not None and found.seeds.n == 3
    assert found.seeds.mean == pytest.approx(5 / 6)
    se = np.std([1, 1, 0.5], ddof=1) / 3**0.5
    assert found.seeds.high - found.seeds.mean == pytest.approx(4.302653 * se, rel=1e-5)
    assert found.rate.n == 2  # prompts, not prompts times seeds
    assert found.rate.mean == pytest.approx(5 / 6)
    assert found.rate.se == pytest.approx(np.std([1, 2 / 3], ddof=1) / 2**0.5)
    mirrored = found.mirrored()
    assert mirrored.seeds is not None and mirrored.seeds.low == pytest.approx(1 - found.seeds.high)


def test_runs_of_one_seed_meet() -> None:
    """A model without seed meets all; two single runs meet; others only at seeds that both have."""
    assert pairings([None], [0, 4, 2]) == [(None, 0), (None, 4), (None, 2)]
    assert pairings([None], [None]) == [(None, None)]
    assert pairings([1, 0], [0, 1, 2]) == [(0, 0), (1, 1)]
    assert pairings([3], [0, 1, 2, 3]) == [(3, 3)]
    assert pairings([0], [7]) == [(0, 7)]
    assert pairings([0, 1], [2]) == pairings([0, 1], [2, 3]) == []


def test_unequal_seeds_pair_what_is_common_and_name_the_rest() -> None:
    """a wins at the seed that both have; paired in order, it would not."""
    runs = {"a": {0: [0.0], 1: [2.0]}, "b": {1: [1.0], 2: [1.0]}, "sft": {None: [0.0]}}
    cell = win_matrix(runs).cells["a", "b"]
    assert cell.rate.mean == 1 and cell.seeds is None
    assert left_out(runs) == [
        "a, seed 0: b has no such seed, so the two do not meet",
        "b, seed 2: a has no such seed, so the two do not meet",
    ]
    apart = win_matrix({"a": {0: [0.0], 1: [2.0]}, "b": {2: [1.0]}, "c": {0: [1.0], 2: [1.0]}})
    assert ("a", "b") not in apart.cells and ("a", "c") in apart.cells


def test_a_table_over_seeds() -> None:
    matrix = win_matrix({"sft": {None: [0.0]}, "ppo": {0: [1.0], 1: [2.0]}})
    found = seeds_markdown(matrix)
    assert "| ppo" not in found and "| sft against ppo | 2 |" in found
    assert seeds_markdown(win_matrix(SCORES)) == ""


def test_a_table_over_seeds_and_prompts() -> None:
    """Shares 1, 0, 1 and 0, 0, 1: mean ½; prompts alone vary, by 1/6, the rest by 1/6; ± 1.242."""
    scores = {"a": {0: [1.0, 0.0, 1.0], 1: [0.0, 0.0, 1.0]}, "b": {None: [0.5, 0.5, 0.5]}}
    matrix = win_matrix(scores)
    row = crossed_markdown(matrix).splitlines()[-1]
    assert row == "| a against b | 2 × 3 | 0.500 | [-0.742, 1.742] | 2.0 | 0% | 50% | 50% |"
    own, other = matrix.cells["a", "b"].both, matrix.cells["b", "a"].both
    assert own is not None and other is not None
    assert (other.low, other.high) == pytest.approx((1 - own.high, 1 - own.low))
    assert crossed_markdown(win_matrix(SCORES)) == ""
    assert "both" not in plain(matrix)["a"]["b"], "what is written stays as it was"


def test_a_single_pair_of_runs_has_no_interval_over_seeds() -> None:
    assert against([[1.0, 0.0]]).seeds is None

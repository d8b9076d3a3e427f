"""Numbers of held-out pairs, worked out by hand, and their picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokencredit.reports.figures import draw_pairs
from tokencredit.statistics.intervals import wilson
from tokencredit.statistics.pair_numbers import pair_numbers


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_wilson_by_hand() -> None:
    # n = 10, p = 0.8, z = 1.959964, z² = 3.841459: (0.8 + 0.192073 ± 1.959964 √(0.016 + 0.0096036)) / 1.384146
    low, high = wilson(0.8, 10)
    half = 1.959964 * math.sqrt(0.016 + 3.841459 / 400)
    assert low == pytest.approx((0.8 + 0.19207295 - half) / 1.3841459, abs=1e-6)
    assert high == pytest.approx((0.8 + 0.19207295 + half) / 1.3841459, abs=1e-6)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4), "the textbook's"
    with pytest.raises(ValueError, match="share"):
        wilson(1.2, 10)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilson_has_a_width_where_all_agree(share: float) -> None:
    low, high = wilson(share, 20)
    assert 0 <= low < high <= 1
    # One end is the share itself, the other z² / (n + z²) away.
    assert high - low == pytest.approx(3.841459 / 23.841459, abs=1e-6)


def test_four_pairs_by_hand() -> None:
    # Margins 2, 1, -1, 0: two right, one wrong, one tie that counts half.
    numbers = pair_numbers([3.0, 1.0, 0.0, 5.0], [1.0, 0.0, 1.0, 5.0])
    assert numbers.pairs == 4 and numbers.accuracy == 0.625
    assert (numbers.accuracy_low, numbers.accuracy_high) == wilson(0.625, 4)
    softplus = [math.log1p(math.exp(-m)) for m in (2, 1, -1, 0)]
    assert numbers.loss == pytest.approx(sum(softplus) / 4)
    assert numbers.margin_mean == 0.5
    assert numbers.margin_std == pytest.approx(math.sqrt(1.25))
    assert sum(numbers.margin_counts) == 4
    assert (numbers.margin_edges[0], numbers.margin_edges[-1]) == (-2.0, 2.0)
    assert (numbers.chosen_mean, numbers.rejected_mean, numbers.score_mean) == (2.25, 1.75, 2.0)
    assert numbers.score_std == pytest.approx(
        math.sqrt(sum(x * x for x in (1, 1, 2, 3, 1, 2, 1, 3)) / 8)
    )


def test_calibration_by_hand() -> None:
    # Ten pairs at σ = 0.82, eight of them right, and ten at σ = 0.58, nine of them right:
    # ½ |0.8 − 0.82| + ½ |0.9 − 0.58| = 0.17.
    margins = [logit(0.82)] * 8 + [-logit(0.82)] * 2 + [logit(0.58)] * 9 + [-logit(0.58)]
    numbers = pair_numbers(margins, [0.0] * 20)
    assert numbers.calibration_error == pytest.approx(0.17)
    full = {round(b.low, 2): b for b in numbers.reliability if b.pairs}
    assert sorted(full) == [0.55, 0.8]
    assert full[0.8].confidence == pytest.approx(0.82) and full[0.8].accuracy == 0.8
    assert full[0.55].pairs == 10 and full[0.55].accuracy == 0.9
    empty = [b for b in numbers.reliability if not b.pairs]
    assert len(empty) == 8 and all(b.confidence is b.accuracy is None for b in empty)


def test_a_coin_is_calibrated_and_worth_ln_2() -> None:
    numbers = pair_numbers([1.0, 2.0], [1.0, 2.0])
    assert numbers.loss == pytest.approx(math.log(2))
    assert (numbers.accuracy, numbers.calibration_error) == (0.5, 0.0)


SCORES = st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=30)


@example([(0.0, 5e-324)], 0.0)
@given(SCORES, st.floats(-50, 50))
def test_only_differences_matter_and_their_order_does_not(
    scores: list[tuple[float, float]], shift: float
) -> None:
    numbers = pair_numbers(*zip(*scores, strict=True))
    turned = pair_numbers(*zip(*scores[::-1], strict=True))
    moved = pair_numbers(*zip(*((a + shift, b + shift) for a, b in scores), strict=True))
    swapped = pair_numbers(*zip(*((b, a) for a, b in scores), strict=True))
    assert turned.loss == pytest.approx(numbers.loss)
    assert turned.calibration_error == pytest.approx(numbers.calibration_error)
    assert moved.loss == pytest.approx(numbers.loss, abs=1e-9)
    assert swapped.accuracy == pytest.approx(1 - numbers.accuracy)
    low, high = numbers.accuracy_low - 1e-12, numbers.accuracy_high + 1e-12
    assert low <= numbers.accuracy <= high and numbers.accuracy_low >= 0 and high <= 1 + 2e-12
    assert sum(numbers.margin_counts) == sum(b.pairs for b in numbers.reliability) == len(scores)


@pytest.mark.parametrize(("chosen", "rejected"), [([], []), ([1.0], [])])
def test_scores_that_are_no_pairs(chosen: list[float], rejected: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs need equally many"):
        pair_numbers(chosen, rejected)


def test_the_picture_is_drawn_and_the_same_again(tmp_path: Path) -> None:
    numbers = pair_numbers([2.0, 1.0, -1.0], [0.5, 1.5, -3.0])
    for name in ("a.png", "b.png"):
        draw_pairs(numbers, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second and first.startswith(b"\x89PNG")
    other = pair_numbers([0.5, 1.5, -3.0], [2.0, 1.0, -1.0])
    draw_pairs(other, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != first
    assert json.dumps(asdict(numbers), allow_nan=False)

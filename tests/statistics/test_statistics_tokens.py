"""Numbers of held-out tokens, worked out by hand, and their picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from tokencredit.reports.figures import draw_tokens
from tokencredit.statistics.intervals import wilson
from tokencredit.statistics.token_numbers import Judged, TokenNumbers, token_numbers


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def one_pair() -> TokenNumbers:
    """Two good tokens, one found; two bad ones, one found; three neutral ones."""
    revised = Judged([2.0, -1.0, 0.0], [1.0, 1.0, 0.5])
    rejected = Judged([-3.0, 1.0, 0.1, -0.2], [0.0, 0.0, 0.5, 0.5])
    return token_numbers([revised], [rejected])


def test_shares_by_hand() -> None:
    numbers = one_pair()
    assert (numbers.pairs, numbers.tokens, numbers.edited) == (1, 7, 4)
    assert numbers.good_share == 0.5 and numbers.accuracy == 0.5
    # Neutral is |log-odds| < log 1.5 = 0.405: right are 2, 0 of the revised, −3, .1, −.2 of the other.
    assert numbers.three_class_accuracy == pytest.approx(5 / 7)
    assert numbers.authors_revised == pytest.approx(1 / 3)
    assert numbers.authors_rejected == 0.25
    assert numbers.f1 == 0.5  # one true good, one called good wrongly, one missed


def test_the_authors_formula_cannot_reach_one_with_neutral_tokens() -> None:
    perfect = token_numbers([Judged([9.0, 0.0], [1.0, 0.5])], [Judged([-9.0, 0.0], [0.0, 0.5])])
    assert perfect.accuracy == perfect.three_class_accuracy == perfect.f1 == 1
    assert perfect.authors_revised == perfect.authors_rejected == 0.5


def test_loss_is_the_one_that_is_trained() -> None:
    # papers.md, C3
    revised, rejected = Judged([1.0, 0.5], [1.0, 0.5]), Judged([-2.0, 0.0], [0.0, 0.5])
    assert token_numbers([revised], [rejected]).loss == pytest.approx(0.928707, abs=1e-6)
    nothing = Judged([], [])
    assert token_numbers([nothing], [rejected]).loss == pytest.approx(0.410038, abs=1e-6)
    zeros = Judged([0.0, 0.0], [1.0, 0.5])
    assert token_numbers([zeros], [Judged([0.0], [0.0])]).loss == pytest.approx(2 * math.log(2))


def test_calibration_by_hand() -> None:
    # Certainties σ(2), σ(1) twice, σ(3) lie in three bins; right, both wrong, right.
    gaps = (1 - sigmoid(2)) + 2 * sigmoid(1) + (1 - sigmoid(3))
    assert one_pair().calibration_error == pytest.approx(gaps / 4)
    assert [each.pairs for each in one_pair().reliability] == [0, 0, 0, 0, 2, 0, 0, 1, 0, 1]


def test_the_interval_counts_tokens_of_one_pair_as_they_vary_together() -> None:
    right, wrong = Judged([1.0, 1.0], [1.0, 1.0]), Judged([-1.0], [1.0])
    empty = Judged([], [])
    found = token_numbers([right, wrong], [empty, empty])
    # Residuals 2/3 and −2/3: variance 2 · (8/9) / 9 = .19753, that of 2/9 / .19753 = 1.125 coins.
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx(wilson(2 / 3, 1.125))
    # Tokens that vary as coins do within pairs give what as many coins give.
    mixed = [Judged([1.0, -1.0], [1.0, 1.0]), Judged([1.0, -1.0], [1.0, 1.0])]
    found = token_numbers(mixed, [empty, empty])
    assert found.accuracy == 0.5
    all_right = token_numbers([right] * 5, [empty] * 5)
    assert (all_right.accuracy_low, all_right.accuracy_high) == pytest.approx(wilson(1.0, 5))


def test_a_tie_counts_half() -> None:
    found = token_numbers([Judged([0.0, 3.0], [1.0, 1.0])], [Judged([], [])])
    assert found.accuracy == 0.75


def test_answers_that_have_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="none is edited"):
        token_numbers([Judged([1.0], [0.5])], [Judged([1.0], [0.5])])
    with pytest.raises(ValueError, match="equally many"):
        token_numbers([], [Judged([1.0], [0.0])])


def test_the_picture_and_the_file_hold_every_token_once(tmp_path: Path) -> None:
    numbers = one_pair()
    assert {name: sum(bars) for name, bars in numbers.histogram.items()} == {
        "good": 2,
        "bad": 2,
        "neutral": 3,
    }
    # D of the good tokens: σ(2) = .88 and σ(−1) = .27, in bars of a twentieth.
    assert [n for n, bar in enumerate(numbers.histogram["good"]) if bar] == [5, 17]
    draw_tokens(numbers, tmp_path / "evaluation.png")
    assert (tmp_path / "evaluation.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(json.dumps(asdict(numbers)))["edited"] == 4

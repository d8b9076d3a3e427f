"""Bradley–Terry strengths against closed forms, another algorithm, and a league."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.statistics.bradley_terry import (
    information,
    log_likelihood,
    probabilities,
    strengths,
)

LEAGUE = """\
first,second,first_wins,second_wins,draws
North,East,8,4,0
East,South,4,2,0
South,West,20,10,0
"""
"""Strengths 8 : 4 : 2 : 1 exactly; South has the easy games."""


def matrix(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(rows, dtype=float)


def by_minorisation(wins: np.ndarray, steps: int = 20_000) -> np.ndarray:
    """The MM algorithm (Hunter 2004): π_i ← W_i / Σ_j n_ij / (π_i + π_j)."""
    p = np.ones(len(wins))
    games = wins + wins.T
    for _ in range(steps):
        p = wins.sum(axis=1) / (games / (p[:, None] + p[None])).sum(axis=1)
        p /= np.exp(np.log(p).mean())
    return np.asarray(np.log(p))


def test_two_players_have_the_log_of_their_ratio() -> None:
    """3 : 1 gives b_1 − b_2 = log 3, with standard error 1/√(4 · ¾ · ¼)."""
    found = strengths(matrix([[0, 3], [1, 0]]))
    difference, se = found.difference(0, 1)
    assert difference == pytest.approx(np.log(3))
    assert se == pytest.approx(1 / (4 * 0.75 * 0.25) ** 0.5)
    assert found.b.sum() == pytest.approx(0)
    assert found.interval(0)[1] == pytest.approx(np.log(3) / 2 + 1.959964 * se / 2, rel=1e-6)


def test_three_players_whose_counts_are_as_expected() -> None:
    """4 : 2, 4 : 1, 2 : 1 is what strengths 4, 2, 1 make likeliest."""
    found = strengths(matrix([[0, 4, 4], [2, 0, 2], [1, 1, 0]]))
    expected = np.log([4, 2, 1])
    assert found.b == pytest.approx(expected - expected.mean())
    assert found.ranking() == [0, 1, 2]


def test_draws_are_half_a_win_of_both() -> None:
    """Two wins and two draws of four are 3 : 1."""
    assert strengths(matrix([[0, 2 + 1], [0 + 1, 0]])).b[0] == pytest.approx(np.log(3) / 2)


def test_papers_6_intransitive_games_leave_nobody_stronger() -> None:
    """Each beats the next 2 : 1 in a circle: what the model cannot express, it calls equal."""
    found = strengths(matrix([[0, 2, 1], [1, 0, 2], [2, 1, 0]]))
    assert found.b == pytest.approx([0, 0, 0], abs=1e-12)


def test_raw_win_rates_mislead_where_schedules_differ(tmp_path: Path) -> None:
    """South wins 61 % of its games and East 44 %, but East is twice as strong."""
    path = tmp_path / "games.csv"
    path.write_text(LEAGUE, encoding="utf-8")
    out = tmp_path / "new" / "strengths.json"
    arguments = ["judge", "strengths", "--games", str(path), "--out", str(out)]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    lines = [line.split() for line in answer.output.splitlines()[1:]]
    assert [line[0] for line in lines] == ["North", "East", "South", "West"]
    raw = {line[0]: float(line[-1]) for line in lines}
    assert raw == {"North": 66.7, "East": 44.4, "South": 61.1, "West": 33.3}
    found = json.loads(out.read_text(encoding="utf-8"))
    ratios = np.exp(np.diff(found["b"]))
    assert found["players"] == ["North", "East", "South", "West"]
    assert ratios == pytest.approx([0.5, 0.5, 0.5])
    assert found["probabilities"][1][2] == pytest.approx(2 / 3)


def test_strengths_of_real_verdicts_over_a_common_baseline(annotations: Path) -> None:
    """In a star every pair keeps its own odds: log(678/127) and log(213/592)."""
    files = [str(annotations / f"{name}.csv") for name in ("alpaca-7b", "tulu-2-dpo-7b")]
    answer = CliRunner().invoke(app, ["judge", "strengths", "--annotations", *files])
    b = {line.split()[0]: float(line.split()[1]) for line in answer.output.splitlines()[1:]}
    assert b["tulu-2-dpo-7b"] - b["text_davinci_003"] == pytest.approx(np.log(678 / 127), abs=2e-4)
    assert b["alpaca-7b"] - b["text_davinci_003"] == pytest.approx(np.log(213 / 592), abs=2e-4)


counts = st.integers(1, 30)
tables = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(counts, min_size=n, max_size=n), min_size=n, max_size=n)
)


@given(tables, st.randoms())
def test_order_of_players_and_scale_of_counts_do_not_matter(table: list[list[int]], draw) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    wins = matrix(table)
    np.fill_diagonal(wins, 0)
    found = strengths(wins)
    order = list(range(len(wins)))
    draw.shuffle(order)
    shuffled = strengths(wins[np.ix_(order, order)])
    assert shuffled.b == pytest.approx(found.b[order], abs=1e-9)
    assert shuffled.se == pytest.approx(found.se[order], rel=1e-8)
    scaled = strengths(7 * wins)
    assert scaled.b == pytest.approx(found.b, abs=1e-9)
    assert scaled.se == pytest.approx(found.se / 7**0.5, rel=1e-7)
    assert found.b.sum() == pytest.approx(0, abs=1e-10)


def test_a_last_step_is_not_refused_for_a_likelihoods_rounding() -> None:
    """Without it the strengths of these counts were 2e-9 off."""
    wins = matrix([[0, 25, 2], [12, 0, 1], [1, 4, 0]])
    for order in itertools.permutations(range(3)):
        found = strengths(wins[np.ix_(order, order)])
        games = (wins + wins.T)[np.ix_(order, order)]
        expected = (games * probabilities(found.b)).sum(axis=1)
        assert expected == pytest.approx(wins.sum(axis=1)[list(order)], abs=1e-12, rel=0)


@given(tables)
def test_another_algorithm_agrees_and_nothing_nearby_is_likelier(table: list[list[int]]) -> None:
    wins = matrix(table)
    np.fill_diagonal(wins, 0)
    found = strengths(wins)
    assert found.b == pytest.approx(by_minorisation(wins, 3_000), abs=1e-6)
    step = np.zeros(len(wins))
    step[0] = 1e-3
    for other in (found.b + step, found.b - step):
        assert log_likelihood(other, wins) < found.log_likelihood


def test_the_information_is_the_curvature_of_the_likelihood() -> None:
    """Against second differences."""
    wins, h = matrix([[0, 5, 2], [3, 0, 4], [1, 2, 0]]), 1e-4
    b = strengths(wins).b
    shifts = h * np.eye(3)

    def value(shift: np.ndarray) -> float:
        return log_likelihood(b + shift, wins)

    for i in range(3):
        for j in range(3):
            second = (
                value(shifts[i] + shifts[j])
                - value(shifts[i] - shifts[j])
                - value(shifts[j] - shifts[i])
                + value(-shifts[i] - shifts[j])
            ) / (4 * h * h)
            assert information(b, wins)[i, j] == pytest.approx(-second, abs=1e-5)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of 400 leagues drawn from known strengths, about 95 % of the intervals hold the truth."""
    truth = np.array([0.8, 0.1, -0.9])
    generator, hits = np.random.default_rng(0), []
    upper = [(0, 1), (0, 2), (1, 2)]
    for _ in range(400):
        wins = np.zeros((3, 3))
        for i, j in upper:
            wins[i, j] = generator.binomial(60, probabilities(truth)[i, j])
            wins[j, i] = 60 - wins[i, j]
        found = strengths(wins)
        bounds = [found.interval(i) for i in range(3)]
        hits += [low <= b <= high for (low, high), b in zip(bounds, truth, strict=True)]
    assert 0.93 < np.mean(hits) < 0.97


def test_papers_S1_a_constant_added_to_all_strengths_changes_nothing() -> None:
    """The slide's "scaling": all e^b times a constant."""
    b = np.array([0.3, -1.0, 2.0])
    assert probabilities(b + 5) == pytest.approx(probabilities(b))
    assert probabilities(np.log(7 * np.exp(b))) == pytest.approx(probabilities(b))
    wins = matrix([[0, 5, 2], [3, 0, 4], [1, 2, 0]])
    assert log_likelihood(b + 5, wins) == pytest.approx(log_likelihood(b, wins))


def test_papers_S1_a_factor_on_all_strengths_changes_the_probabilities() -> None:
    """The other reading is wrong: log-odds 1 become 2."""
    b = np.array([0.5, -0.5])
    assert probabilities(b)[0, 1] == pytest.approx(0.7310586)
    assert probabilities(2 * b)[0, 1] == pytest.approx(0.8807971)


def test_papers_6_log_odds_are_the_difference() -> None:
    p = probabilities(np.array([1.2, 0.5]))[0, 1]
    assert np.log(p / (1 - p)) == pytest.approx(0.7)


def test_players_that_never_met_cannot_be_compared() -> None:
    wins = matrix([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    with pytest.raises(UserError, match=r"no games between \{a, b\}; \{c, d\}.*--prior"):
        strengths(wins, ["a", "b", "c", "d"])


def test_ford_a_group_that_never_lost_is_infinitely_strong() -> None:
    """a and b beat each other, c lost to both: finite only with drawn games added."""
    wins = matrix([[0, 2, 1], [1, 0, 1], [0, 0, 0]])
    with pytest.raises(UserError, match=r"\{a, b\} lost no game against \{c\}.*infinite"):
        strengths(wins, ["a", "b", "c"])
    found = strengths(wins, ["a", "b", "c"], prior=0.5)
    assert np.isfinite(found.b).all() and found.ranking() == [0, 1, 2]
    assert strengths(wins, prior=5).b[0] < found.b[0]  # pulled together


def test_a_prior_is_so_many_drawn_games_between_two() -> None:
    """3 : 1 and two drawn games are 4 : 2."""
    found = strengths(matrix([[0, 3], [1, 0]]), prior=2)
    assert found.difference(0, 1)[0] == pytest.approx(np.log(2))
    assert found.log_likelihood == pytest.approx(4 * np.log(2 / 3) + 2 * np.log(1 / 3))


def test_games_of_a_player_against_itself_say_nothing() -> None:
    """Of 3 : 1 alone the likelihood is ¾³ ¼; twelve even games more would be a factor 2⁻¹²."""
    found = strengths(matrix([[5, 3], [1, 7]]))
    assert found.difference(0, 1)[0] == pytest.approx(np.log(3))
    assert found.log_likelihood == pytest.approx(3 * np.log(3 / 4) + np.log(1 / 4))


def test_a_prior_alone_makes_all_equal() -> None:
    assert strengths(np.zeros((3, 3)), prior=1).b == pytest.approx([0, 0, 0])


def test_very_unequal_counts_converge() -> None:
    found = strengths(matrix([[0, 10_000, 1], [1, 0, 10_000], [1, 1, 0]]))
    gradient = found.b - by_minorisation(
        matrix([[0, 10_000, 1], [1, 0, 10_000], [1, 1, 0]]), 200_000
    )
    assert np.abs(gradient).max() < 1e-4


def test_counts_that_whole_newton_steps_run_away_from_converge() -> None:
    """Where the gradient is 0, everybody is expected to win as many games as it won."""
    wins = matrix([[0, 1, 0, 10_000], [0, 0, 2, 0], [10, 10_000, 0, 2], [1, 10_000, 0, 0]])
    found = strengths(wins)
    expected = ((wins + wins.T) * probabilities(found.b)).sum(axis=1)
    assert expected == pytest.approx(wins.sum(axis=1), abs=1e-6) and found.steps < 30


@pytest.mark.parametrize(
    "wins", [[[0, 1]], [[0.0]], [[0, -1], [1, 0]], [[0, float("nan")], [1, 0]]]
)
def test_what_is_no_matrix_of_counts_is_refused(wins: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"shape|counts"):
        strengths(matrix(wins))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a,b\n1,2\n", "needs rows and the columns first, second"),
        ("first,second,first_wins,second_wins\nx,y,one,2\n", "line 2"),
        ("first,second,first_wins,second_wins\nx,y,1,2\nx,x,1,2\n", "line 3: two players"),
        ("first,second,first_wins,second_wins\nx,y,-1,2\n", "not negative"),
    ],
)
def test_a_bad_file_of_games_names_its_line(text: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "games.csv"
    path.write_text(text, encoding="utf-8")
    answer = CliRunner().invoke(app, ["judge", "strengths", "--games", str(path)])
    assert isinstance(answer.exception, UserError)
    assert "--games" in str(answer.exception) and rule in str(answer.exception)


def test_games_or_annotations_are_needed() -> None:
    answer = CliRunner().invoke(app, ["judge", "strengths"])
    assert isinstance(answer.exception, UserError) and "--games" in str(answer.exception)

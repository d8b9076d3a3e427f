"""The choice of a method's numbers from its pilot runs, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.papers.grids import Point, beyond, edges, extension, nested, point_of, points
from tokencredit.papers.pilot_files import (
    choice_text,
    read_pilots,
    read_terms,
    write_pilots,
    write_terms,
)
from tokencredit.papers.pilot_tables import pilots_table, tuning_text
from tokencredit.papers.pilots import (
    Choice,
    Pilot,
    Terms,
    Trial,
    check_terms,
    choose,
    chosen_points,
    leaders,
    ranking,
    trials,
)
from tokencredit.store.files import Damaged, read_yaml
from tokencredit.store.run_folder import FAILED

RATE, KL = "algorithm.optimizer.learning_rate", "algorithm.kl.coef"
GRID = {RATE: [5e-5, 1e-4, 2e-4], KL: [0.05, 0.2]}
ONE = {RATE: [1e-4, 2e-4, 4e-4]}
TERMS = Terms(grids={"abc": ONE}, follows={"shuffled": "abc"}, steps=101)


def at(rate: float, kl: float | None = None) -> Point:
    """A point of `GRID`, or of `ONE`."""
    return Point(((RATE, rate),) if kl is None else ((RATE, rate), (KL, kl)))


def row(point: Point, gold: float, kl: float = 5.0, **changed: object) -> Pilot:
    """A row of round 1 within all bounds."""
    made = Pilot(
        method="abc", point=point, round=1, seed=100, steps=40, key="k", gold=gold, kl=kl,
        clip_fraction=0.1, distinct_2=0.8, sft_distinct_2=0.9, seconds=10.0,
    )  # fmt: skip
    return replace(made, **changed)  # type: ignore[arg-type]


def second(point: Point, golds: tuple[float, ...], kls: tuple[float, ...]) -> list[Pilot]:
    """The rows of round 2 at a point, one a seed."""
    return [
        row(point, gold, kl, round=2, seed=100 + number, steps=101)
        for number, (gold, kl) in enumerate(zip(golds, kls, strict=True))
    ]


FIRST = [row(at(1e-4), 0.1), row(at(2e-4), 0.4), row(at(4e-4), 0.3)]
LOW, HIGH = at(2e-4), at(4e-4)


def test_points_are_every_combination_in_the_order_of_the_file() -> None:
    found = points(GRID)
    assert [point.value(RATE) for point in found] == [5e-5, 5e-5, 1e-4, 1e-4, 2e-4, 2e-4]
    assert [point.value(KL) for point in found] == [0.05, 0.2] * 3
    assert str(found[0]) == f"{RATE}=5e-05 {KL}=0.05"
    assert [point_of(str(point)) for point in found] == found
    assert points({}) == []
    with pytest.raises(UserError, match="KEY=NUMBER"):
        point_of("algorithm.kl.coef")


def test_edges_are_the_least_and_the_greatest_value_of_each_key() -> None:
    assert edges(at(1e-4, 0.05), points(GRID)) == [KL]
    assert edges(at(2e-4, 0.2), points(GRID)) == [RATE, KL]
    assert edges(at(2e-4), points(ONE)) == []


def test_a_list_goes_on_by_the_ratio_of_its_last_two() -> None:
    assert beyond([5e-5, 1e-4, 2e-4], above=True) == 4e-4
    assert beyond([5e-5, 1e-4, 2e-4], above=False) == 2.5e-5
    assert beyond([0.05, 0.2], above=False) == 0.0125  # 0.05² / 0.2
    assert beyond([1.0, 3.0, 4.0], above=True) == 5.33333  # 16 / 3


def test_an_extension_is_next_to_the_best_and_as_long_as_is_asked() -> None:
    assert extension(at(2e-4, 0.05), GRID, 2) == [at(4e-4, 0.05), at(2e-4, 0.0125)]
    assert extension(at(1e-4, 0.2), GRID, 1) == [at(1e-4, 0.8)]
    # one edge, and the budget of a method with two
    assert extension(at(1e-4, 0.2), GRID, 2) == [at(1e-4, 0.8), at(4e-4, 0.2)]
    assert extension(at(2e-4), ONE, 2) == [at(8e-4), at(5e-5)]
    assert extension(at(2e-4), ONE, 0) == []


def test_round_1_has_two_fifths_of_the_steps_to_the_nearest() -> None:
    assert TERMS.first_steps == 40  # 40.4
    assert replace(TERMS, share=0.55, steps=100).first_steps == 55  # 55.00000000000001


def test_the_best_two_go_on_and_those_out_of_bounds_come_last() -> None:
    assert leaders(FIRST, TERMS, 1, 2) == {"abc": [LOW, HIGH]}
    wild = [FIRST[0], row(LOW, 0.9, kl=5.95), FIRST[2]]  # more than 15 × 40 / 101
    assert leaders(wild, TERMS, 1, 2)["abc"] == [HIGH, at(1e-4)]
    failed = [row(at(1e-4), math.nan, math.nan, status=FAILED), row(LOW, 1.0, kl=20.0), FIRST[2]]
    assert [means.point for means in ranking(failed, TERMS, "abc", 1)] == [HIGH, LOW, at(1e-4)]


@pytest.mark.parametrize(
    ("changed", "within"),
    [
        ({"kl": 15.0}, True),
        ({"kl": 15.01}, False),
        ({"clip_fraction": 0.25}, True),
        ({"clip_fraction": 0.26}, False),
        ({"distinct_2": 0.63, "sft_distinct_2": 0.9}, True),  # 0.7 × 0.9
        ({"distinct_2": 0.62, "sft_distinct_2": 0.9}, False),
        ({"distinct_2": math.nan}, False),
    ],
)
def test_bounds_are_inclusive(changed: dict[str, float], within: bool) -> None:
    (means,) = ranking([row(LOW, 1.0, round=2, **changed)], TERMS, "abc", 2)
    assert means.within is within


def test_the_bound_of_kl_in_round_1_is_in_proportion_to_its_steps() -> None:
    assert TERMS.largest_kl(1) == pytest.approx(5.9406, abs=1e-4) and TERMS.largest_kl(2) == 15
    for kl, within in ((5.94, True), (5.95, False)):
        (means,) = ranking([row(LOW, 1.0, kl=kl)], TERMS, "abc", 1)
        assert means.within is within


def chosen(rows: list[Pilot]) -> Choice:
    return choose([*FIRST, *rows], TERMS)["abc"]


def test_the_choice_is_the_highest_mean_over_the_seeds() -> None:
    rows = [*second(LOW, (0.1, 0.2, 0.6), (5, 6, 7)), *second(HIGH, (0.2, 0.2, 0.2), (1, 1, 1))]
    found = chosen(rows)
    assert found.point == LOW  # 0.3 > 0.2, although it wins one seed of three
    assert found.means.gold == pytest.approx(0.3) and found.means.kl == 6 and found.means.runs == 3
    assert found.edges == () and found.remark() == ""
    assert chosen_points({"abc": found}, TERMS) == {"abc": LOW, "shuffled": LOW}


def test_means_keep_the_bounds_not_every_run() -> None:
    even = second(HIGH, (0.2, 0.2, 0.2), (1, 1, 1))
    assert chosen([*second(LOW, (1, 1, 1), (14, 15, 16)), *even]).point == LOW  # mean 15
    assert chosen([*second(LOW, (1, 1, 1), (15, 15, 16)), *even]).point == HIGH


def test_ties_go_to_the_lower_kl() -> None:
    rows = [*second(LOW, (0.5, 0.5, 0.5), (4, 4, 4)), *second(HIGH, (0.5, 0.5, 0.5), (3, 3, 3))]
    assert chosen(rows).point == HIGH


def test_a_failed_run_is_out_of_bounds() -> None:
    lost = second(LOW, (9, 9, 9), (1, 1, 1))
    lost[1] = replace(lost[1], status=FAILED, gold=math.nan, kl=math.nan)
    assert chosen([*lost, *second(HIGH, (0, 0, 0), (9, 9, 9))]).point == HIGH


def test_where_no_point_keeps_the_bounds_the_lowest_kl_is_chosen_and_said() -> None:
    rows = [*second(LOW, (9, 9, 9), (30, 30, 30)), *second(HIGH, (1, 1, 1), (20, 20, 20))]
    found = chosen(rows)
    assert found.point == HIGH and not found.means.within
    assert (
        "no point keeps the bounds" in found.remark() and f"at the edge of {RATE}" in found.remark()
    )


def test_a_choice_at_the_edge_of_all_that_was_tried_says_so() -> None:
    rows = [*second(LOW, (0, 0, 0), (1, 1, 1)), *second(HIGH, (1, 1, 1), (1, 1, 1))]
    assert chosen(rows).edges == (RATE,)
    further = row(at(8e-4), 0.0)
    assert choose([*FIRST, further, *rows], TERMS)["abc"].edges == ()


def test_an_unfinished_second_round_is_refused() -> None:
    rows = [*second(LOW, (0, 0, 0), (1, 1, 1)), *second(HIGH, (1, 1, 1), (1, 1, 1))[:2]]
    with pytest.raises(UserError, match="round 2 is not complete"):
        chosen(rows)


def test_every_method_gets_the_same_number_of_runs_at_every_stage() -> None:
    """One method's best lies at an edge, the other's does not: both are extended by one point."""
    terms = Terms(grids={"abc": ONE, "sparse": ONE}, steps=10)
    start = trials([], terms)
    assert [(t.method, t.seed, t.steps, t.round) for t in start] == [
        *[("abc", 100, 4, 1)] * 3,
        *[("sparse", 100, 4, 1)] * 3,
    ]

    def done(some: list[Trial]) -> list[Pilot]:
        best = {"abc": 4e-4, "sparse": 2e-4}
        return [
            row(t.point, -abs(t.point.value(RATE) - best[t.method]), method=t.method,
                round=t.round, seed=t.seed, steps=t.steps)
            for t in some
        ]  # fmt: skip

    assert trials(done(start[:-1]), terms) == start, "the extension waits for the whole round"
    extended = trials(done(start), terms)
    assert [(t.method, t.point) for t in extended[6:]] == [("abc", at(8e-4)), ("sparse", at(8e-4))]
    ends = trials(done(extended), terms)
    assert [(t.method, t.point.value(RATE), t.seed) for t in ends[8:]] == [
        ("abc", 4e-4, 100), ("abc", 2e-4, 100), ("sparse", 2e-4, 100), ("sparse", 1e-4, 100),
    ]  # fmt: skip
    whole = trials(done(ends), terms)
    assert whole[:12] == ends
    assert [(t.method, t.point.value(RATE), t.seed) for t in whole[12:]] == [
        *[("abc", rate, seed) for rate in (4e-4, 2e-4) for seed in (101, 102)],
        *[("sparse", rate, seed) for rate in (2e-4, 1e-4) for seed in (101, 102)],
    ]
    assert {t.steps for t in whole[8:]} == {10}
    assert trials(done(whole), terms) == whole


def test_points_that_leave_the_bounds_are_replaced_by_as_many_for_every_method() -> None:
    """The two best of one method end out of bounds, those of the other do not."""
    grid = {RATE: [5e-5, 1e-4, 2e-4, 4e-4, 8e-4]}
    terms = Terms(grids={"abc": grid, "sparse": grid}, steps=10)
    wild = {("abc", 2e-4), ("abc", 4e-4)}

    def done(some: list[Trial]) -> list[Pilot]:
        return [
            row(
                t.point, -abs(math.log(t.point.value(RATE) / 3e-4)), method=t.method, round=t.round,
                seed=t.seed, steps=t.steps,
                kl=30.0 if (t.method, t.point.value(RATE)) in wild and t.round == 2 else 3.0,
            )
            for t in some
        ]  # fmt: skip

    def rates(some: list[Trial], method: str, seed: int) -> list[float]:
        return [
            t.point.value(RATE) for t in some if (t.method, t.seed, t.round) == (method, seed, 2)
        ]

    rows: list[Pilot] = []
    lengths = []
    while len(found := trials(rows, terms)) > len(rows):
        lengths.append(len(found))
        rows = done(found)
    # five points each; two to the end; a third and a fourth; two with two more seeds
    assert lengths == [10, 14, 16, 18, 26]
    for method in ("abc", "sparse"):
        assert rates(found, method, 100) == [4e-4, 2e-4, 8e-4, 1e-4]
    assert rates(found, "abc", 101) == [8e-4, 1e-4]
    assert rates(found, "sparse", 102) == [4e-4, 2e-4]
    choices = choose(rows, terms)
    assert choices["abc"].point == at(8e-4) and choices["abc"].means.within
    assert choices["sparse"].point == at(4e-4)


def test_no_extension_where_no_best_point_lies_at_an_edge() -> None:
    found = trials(FIRST, TERMS)
    assert [t.round for t in found] == [1] * 3 + [2] * 2


def test_methods_with_other_budgets_are_refused() -> None:
    with pytest.raises(UserError, match=r"same number of points \(abc 3, sparse 6\)"):
        check_terms(Terms(grids={"abc": ONE, "sparse": GRID}, steps=10))
    with pytest.raises(UserError, match=r"follows = 'rto' .of method shuffled.: is no tuned"):
        check_terms(replace(TERMS, follows={"shuffled": "rto"}))
    with pytest.raises(UserError, match="no method of the experiment has one"):
        check_terms(Terms(grids={}, steps=10))
    check_terms(TERMS)


def test_rows_and_terms_come_back_from_their_files(tmp_path: Path) -> None:
    path = tmp_path / "tuning" / "cpu.csv"
    failed = row(HIGH, math.nan, math.nan, status=FAILED)
    assert read_pilots(path) == []
    write_pilots(path, [*FIRST, failed])
    write_terms(path, TERMS, "abc123")
    *kept, lost = read_pilots(path)
    assert kept == FIRST and lost.status == FAILED and math.isnan(lost.gold)
    assert read_terms(path) == TERMS
    path.write_text(path.read_text().replace("0.4", "much"))
    with pytest.raises(Damaged, match=r"cpu\.csv: is damaged"):
        read_pilots(path)


def test_a_choice_is_yaml_for_the_whole_configuration(tmp_path: Path) -> None:
    assert nested(at(1e-4, 0.2)) == {
        "algorithm": {"optimizer": {"learning_rate": 1e-4}, "kl": {"coef": 0.2}}
    }
    path = tmp_path / "abc.yaml"
    path.write_text(choice_text(at(1e-4, 0.2), "experiments/x/tuning/cpu.csv"))
    assert path.read_text().startswith("# @package _global_\n# Chosen by `tokencredit tune` from")
    assert read_yaml(path) == nested(at(1e-4, 0.2))


def test_the_table_has_every_point_and_marks_the_choice() -> None:
    rows = [*second(LOW, (0.1, 0.2, 0.6), (5, 6, 7)), *second(HIGH, (1, 1, 1), (20, 20, 20))]
    lines = pilots_table([*FIRST, *rows], TERMS).splitlines()
    assert len(lines) == 2 + 3 + 2
    (mark,) = [line for line in lines if "chosen" in line]
    assert [cell.strip() for cell in mark.split("|")[1:-1]] == [
        "abc", str(LOW), "2", "3", "0.300", "6.00", "10.0%", "0.800", "chosen",
    ]  # fmt: skip
    assert "1.000 (out of bounds)" in lines[-1]


def test_a_page_says_terms_controls_and_every_point(tmp_path: Path) -> None:
    path = tmp_path / "tuning" / "cpu.csv"
    assert tuning_text(path) == "*No method was tuned: there are no pilot runs.*"
    rows = [*second(LOW, (0.1, 0.2, 0.6), (5, 6, 7)), *second(HIGH, (1, 1, 1), (6, 6, 6))]
    write_pilots(path, [*FIRST, *rows])
    write_terms(path, TERMS, None)
    text = tuning_text(path)
    assert (
        "40 of 101 steps" in text
        and "KL ≤ 15 nats (round 1: 5.94, in proportion to its steps), clipped tokens ≤ 25%" in text
    )
    assert "shuffled has the point of abc." in text
    assert text.endswith(pilots_table([*FIRST, *rows], TERMS))


def test_a_page_of_a_tuning_that_goes_on_says_how_many_runs_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "tuning" / "cpu.csv"
    write_pilots(path, FIRST[:-1])
    write_terms(path, TERMS, None)
    said = f"*Tuning goes on: {len(FIRST) - 1} pilot runs have ended, at least 1 more are to come"
    assert f"{said}, and no point is chosen.*" in tuning_text(path)

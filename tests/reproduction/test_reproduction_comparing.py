"""What counts as the same run: checks on rows whose answer can be worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokencredit.errors import UserError
from tokencredit.reproduction.comparing import (
    Check,
    State,
    apart,
    compare,
    compare_plan,
    first_difference,
    likely_cause,
    oracle_bound,
    residual_error,
    step_bounds,
)
from tokencredit.reproduction.recorded import (
    Machine,
    Recorded,
    cell_choices,
    ratings_of_seeds,
    read_recorded,
)

QUANTILE = 9.844159
"""Student's t with 6 degrees of freedom: above it lie 3.167e-5, as above 4 of a normal variable."""
HERE = Machine({"torch": "2.0", "numpy": "1.0"}, "X", {"threads": 1})
FIXED = {"task": "t", "method": "abc", "run": "0", "seed": "0", "status": "complete"}


def rows(*scores: float) -> list[dict[str, str]]:
    return [
        {**FIXED, "step": str(step), "mean_reward": str(score), "kl": "0.5"}
        for step, score in enumerate(scores)
    ]


def recorded(*scores: float, machine: Machine = HERE) -> Recorded:
    return Recorded(
        path=Path("cell.csv"),
        kind="cell",
        key="k" * 16,
        status="complete",
        steps=len(scores),
        rows=rows(*scores),
        identity={"stage": "rl", "version": 1, "inputs": {"seed": 0}, "parents": {"sft": "a"}},
        machine=machine,
        commit="c" * 40,
        data={"rl": "d1", "eval": "d2"},
        weights={"sft": "w"},
        evaluation={"policy/oracle": {"mean": 1.0, "se": 0.5, "n": 256}},
        prompts=(),
        seconds=100.0,
    )


ELSEWHERE = replace(HERE, processor="Y")


def states(checks: list[Check]) -> dict[str, State]:
    return {check.what: check.state for check in checks}


def test_equal_runs_are_equal_to_the_last_bit() -> None:
    checks = compare(recorded(1.0, 2.0), recorded(1.0, 2.0), [1.0, 1.0], 4)
    assert first_difference(checks) is None
    assert states(checks)["steps"] is State.same and states(checks)["evaluation"] is State.same


def test_on_the_same_machine_the_last_bit_counts() -> None:
    """A cell changed by hand: the step, the column, and both values are named."""
    changed = math.nextafter(2.0, 3.0)
    found = first_difference(
        compare(recorded(1.0, changed, 9.0), recorded(1.0, 2.0, 3.0), [1.0] * 3, 4)
    )
    assert found is not None and found.what == "steps"
    assert found.text == f"step 1, mean_reward: {changed} recorded, 2.0 now"


def test_a_column_that_no_measurement_is_in_counts_everywhere() -> None:
    for machine in (HERE, ELSEWHERE):
        there = recorded(1.0, machine=machine)
        there = replace(there, rows=[{**there.rows[0], "method": "sparse"}])
        found = first_difference(compare(there, recorded(1.0), [1.0], 4))
        assert found is not None
        assert found.text == "step 0, method: sparse recorded, abc now"


def test_a_column_that_came_later_does_not_count() -> None:
    again = recorded(1.0)
    again = replace(again, rows=[{**again.rows[0], "flops": "7"}])
    assert first_difference(compare(recorded(1.0), again, [1.0], 4)) is None


# sd 2 over 4 responses: se 1, of a difference √2. Two steps have 3 degrees of freedom each; Student's
# t with 6 is exceeded at QUANTILE on one side as seldom as a normal variable at 4.
@pytest.mark.parametrize(("away", "same"), [(-0.01, True), (0.01, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_elsewhere_scores_may_be_four_standard_errors_apart(
    away: float, sign: int, *, same: bool
) -> None:
    away = sign * (math.sqrt(2) * QUANTILE + away)
    there = recorded(0.0, 10.0, machine=ELSEWHERE)
    checks = compare(there, recorded(0.0, 10.0 + away), [2.0, 2.0], 4)
    found = first_difference(checks)
    assert (found is None) is same
    assert found is None or f"step 1, mean_reward: 10.0 recorded, {10.0 + away} now" in found.text


def test_a_step_s_spread_is_that_of_the_steps_around_it() -> None:
    """Variances 0 and 11 of eleven steps: five neighbours on either side, and no more."""
    deviations = [0.0] * 5 + [math.sqrt(11)] + [0.0] * 10
    bounds = step_bounds(deviations, 4)
    errors = [error for error, _ in bounds]
    assert errors[5] == pytest.approx(math.sqrt(11 / 11 / 4))
    assert errors[0] == pytest.approx(math.sqrt(11 / 6 / 4)), "none before the first step"
    assert errors[10] > 0 and errors[11] == 0


def test_bounds_are_exceeded_by_chance_as_seldom_as_they_say() -> None:
    """Means of eight normal scores, twice: 4 of their own standard errors are exceeded too often."""
    steps, batch = 40_000, 8
    draws = np.random.default_rng(0).normal(size=(2, steps, batch))
    means, spreads = draws.mean(2), draws.std(2, ddof=1)
    away = abs(means[0] - means[1]) / math.sqrt(2)
    alone = away > 4 * spreads[1] / math.sqrt(batch)
    assert alone.mean() > 0.003
    bounds = np.array(step_bounds(list(spreads[1]), batch))
    assert (away > bounds[:, 0] * bounds[:, 1]).mean() < 3e-4
    assert bounds[:, 1].max() < 5, "and they are not wide"


@pytest.mark.parametrize(("away", "same"), [(1.38, True), (1.40, False), (-1.40, False)])
def test_elsewhere_the_oracle_may_be_in_its_interval(away: float, *, same: bool) -> None:
    """1.96 · √2 · 0.5 = 1.386."""
    oracle = {"policy/oracle": {"mean": 1.0 + away, "se": 0.1, "n": 256}}
    again = replace(recorded(1.0), evaluation=oracle)
    checks = compare(recorded(1.0, machine=ELSEWHERE), again, [1.0], 4)
    assert (states(checks)["evaluation"] is State.within) is same
    assert first_difference(compare(recorded(1.0), again, [1.0], 4)) is not None, "bytes here"


def test_a_run_elsewhere_ends_where_another_seed_might_have() -> None:
    """Seeds 0, 1, 2: sd 1, Student's t of two degrees of freedom 4.3027, times √2 6.0849."""
    there = recorded(1.0, machine=ELSEWHERE)
    for away, same in ((6.08, True), (6.09, False)):
        oracle = {"policy/oracle": {"mean": 1.0 + away, "se": 0.1, "n": 256}}
        again = replace(recorded(1.0), evaluation=oracle)
        checks = compare(there, again, [1.0], 4, (0.0, 1.0, 2.0))
        assert (states(checks)["evaluation"] is State.within) is same
    assert oracle_bound(0.5, (0.0, 1.0))[0] == pytest.approx(1.386, abs=1e-3), "two are too few"
    assert oracle_bound(9.0, (0.0, 1.0, 2.0))[0] == pytest.approx(9 * 1.96 * math.sqrt(2))


def test_seeds_of_a_cell_are_those_that_differ_in_nothing_else(tmp_path: Path) -> None:
    def write(name: str, seed: int, rating: float, **inputs: object) -> None:
        identity = {"inputs": {"seed": seed, **inputs}, "parents": {"sft": name}, "version": 1}
        cell = {
            "config_hash": name,
            "status": "complete",
            "steps": 1,
            "provenance": {"identity": identity},
            "evaluation": {"policy/oracle": {"mean": rating, "se": 0.1, "n": 9}},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(cell))

    write("a", 0, 1.0, beta=0.5)
    write("b", 1, 2.0, beta=0.5)
    write("c", 1, 7.0, beta=0.6)
    (tmp_path / "a.csv").write_text("step,mean_reward\n0,1.0\n")
    (tmp_path / "table.json").write_text("{}")
    assert ratings_of_seeds(read_recorded(tmp_path / "a.csv")) == [1.0, 2.0]


def test_a_part_of_the_steps_says_nothing_of_the_end() -> None:
    again = replace(recorded(1.0, 2.0), evaluation={})
    checks = compare(recorded(1.0, 2.0, 3.0), again, [1.0] * 2, 4)
    assert first_difference(checks) is None
    found = {check.what: check for check in checks}
    assert found["evaluation"].text == "2 of 3 steps" and "2 of 3 steps" in found["steps"].text


def test_other_data_or_stages_are_the_first_difference() -> None:
    other = replace(recorded(1.0), data={"rl": "d1", "eval": "e"}, weights={"sft": "v"})
    found = first_difference(compare(other, recorded(2.0), [1.0], 4))
    assert found is not None and (found.what, found.text) == ("data", "eval: e → d2")
    found = first_difference(compare(replace(other, data={}), recorded(2.0), [1.0], 4))
    assert found is not None and (found.what, found.text) == ("stages", "sft: v → w")
    elsewhere = replace(other, data={}, machine=ELSEWHERE)
    assert states(compare(elsewhere, recorded(1.0), [1.0], 4))["stages"] is State.left_out


def test_prompts_of_a_run_folder_must_be_there_again() -> None:
    there = replace(recorded(1.0, 2.0), prompts=[(0, "a"), (1, "b"), (20, "later")])
    same = replace(recorded(1.0, 2.0), prompts=[(0, "a"), (1, "b")])
    other = replace(same, prompts=[(0, "a"), (1, "c")])
    assert states(compare(there, same, [1.0] * 2, 4))["prompts"] is State.same
    found = first_difference(compare(there, other, [1.0] * 2, 4))
    assert found is not None and found.text == "1: 'b' is not there now"


def test_the_spread_of_a_curve_alone() -> None:
    """Differences 1, −1, 1 have variance 4/3, and a step's error half of that: √(2/3)."""
    assert residual_error([0.0, 1.0, 0.0, 1.0]) == pytest.approx(math.sqrt(2 / 3))
    assert residual_error([0.0, 1.0]) == 0.0


def test_without_a_spread_the_curve_decides() -> None:
    """Error √(2/3), of a difference √(4/3) = 1.155, four of them 4.62."""
    there = recorded(0.0, 1.0, 0.0, 1.0, machine=ELSEWHERE)
    for away, same in ((4.6, True), (4.7, False)):
        checks = compare(there, recorded(0.0, 1.0, 0.0, 1.0 + away), [0.0] * 4, 4)
        assert (first_difference(checks) is None) is same


def test_a_key_that_differs_names_the_setting() -> None:
    there = recorded(1.0)
    assert compare_plan(there, there.key, there.identity).state is State.same
    now = {**there.identity, "inputs": {"seed": 3}}
    found = compare_plan(there, "x" * 16, now)
    assert found.state is State.different and found.text.endswith("now: inputs.seed: 0 → 3")
    assert "conf/" in likely_cause(there, HERE, "", found)
    raised = compare_plan(there, "x" * 16, {**there.identity, "version": 2})
    assert "version: 1 → 2" in raised.text
    assert "Stage.version" in likely_cause(there, HERE, "", raised)
    before = compare_plan(there, "x" * 16, {**there.identity, "parents": {"sft": "b"}})
    assert "stage before it" in likely_cause(there, HERE, "", before)


def test_the_likely_cause_is_what_differs() -> None:
    there, found = recorded(1.0), Check("steps", State.different, "")
    now = Machine({"torch": "2.1", "numpy": "1.0"}, "Y", {"threads": 2})
    assert apart(HERE, HERE) == [] and apart(Machine(), HERE), "an unknown machine is another"
    assert apart(HERE, now) == [
        "torch 2.0 → 2.1", "threads: 1 → 2 (arithmetic)", "processor X → Y",
    ]  # fmt: skip
    assert "commit cccccccccc → dddddddddd" in likely_cause(there, HERE, "d" * 40, found)
    said = likely_cause(there, HERE, "c" * 40, found)
    assert said == "nothing that is recorded differs; the record was edited"


def test_a_cells_choices_are_completed_by_what_stands_beside_them() -> None:
    record = {
        "experiment": "a/b", "scale": "cpu", "seeds": {"seed": 3, "stage_seed": 1},
        "provenance": {"overrides": ["+experiment=a/b", "stage_seed=1"]},
    }  # fmt: skip
    assert cell_choices(record) == ["+experiment=a/b", "stage_seed=1", "scale=cpu", "seed=3"]


def test_what_is_neither_run_nor_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    for path in (tmp_path, tmp_path / "x.csv", tmp_path / "none.json"):
        with pytest.raises(UserError, match="is no"):
            read_recorded(path)

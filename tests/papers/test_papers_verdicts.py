"""Verdicts at the edges: an interval that ends at the bound, claims of several parts, and pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokencredit.papers.entries import Panel
from tokencredit.papers.runs import LoggedRun, Origin, Setting
from tokencredit.papers.verdicts import (
    Evidence,
    Finding,
    Verdict,
    all_of,
    higher,
    judge,
    smaller_spread,
)


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_an_interval_that_ends_at_the_bound_does_not_decide(bound: float) -> None:
    """The bound itself is no difference, or no smaller spread."""
    assert judge(bound, bound + 2, bound, above=True) is Verdict.undecided
    assert judge(bound - 2, bound, bound, above=False) is Verdict.undecided
    assert judge(bound, bound + 2, bound, above=False) is Verdict.undecided
    assert judge(bound - 2, bound, bound, above=True) is Verdict.undecided


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((Verdict.undecided, Verdict.contradicted), Verdict.contradicted),
        ((Verdict.supported, Verdict.contradicted), Verdict.contradicted),
        ((Verdict.supported, Verdict.undecided), Verdict.undecided),
        ((Verdict.equivalent, Verdict.undecided), Verdict.undecided),
        ((Verdict.supported, Verdict.equivalent), Verdict.equivalent),
        ((Verdict.supported, Verdict.supported), Verdict.supported),
    ],
)
def test_a_claim_of_several_parts_is_its_worst_and_its_smallest(
    verdicts: tuple[Verdict, Verdict], expected: Verdict, turned: bool
) -> None:
    parts = [Finding(verdicts[0], "a", 5), Finding(verdicts[1], "b", 3)]
    found = all_of(parts[::-1] if turned else parts)
    assert (found.verdict, found.n) == (expected, 3)


def runs(method: str, rewards: dict[int, float]) -> list[LoggedRun]:
    """Runs of three points each, all alike."""
    setting = Setting("task", method, None, (8, 16))
    return [
        LoggedRun(setting, run, "complete", {"mean_reward": [reward] * 3}, Origin(Path()))
        for run, reward in rewards.items()
    ]


def test_runs_meet_by_their_number_whatever_their_order() -> None:
    """Runs 2 and 3 are 5 and 6 better; run 1 and run 4 have nobody to be compared with."""
    methods = {
        "abc": runs("abc", {3: 36.0, 1: 1000.0, 2: 25.0}),
        "sparse": runs("sparse", {2: 20.0, 4: 7.0, 3: 30.0}),
    }
    panel = Panel(task="task", points=3)
    evidence = Evidence([panel], [methods], "abc", "sparse", ["sparse"], "mean", 0.5)
    assert evidence.pair("abc", "sparse") == ([25.0, 36.0], [20.0, 30.0])
    finding = higher(evidence)
    assert finding.n == 2 and finding.numbers.startswith("abc − sparse = +5.500 [")


@pytest.mark.parametrize("factor", [0.2, 0.95, 1.0, 3.0])
def test_the_p_of_a_spread_agrees_with_its_interval(factor: float) -> None:
    """Pitman's and Morgan's: p lies below 5 % exactly where the interval excludes 1."""
    theirs = dict(enumerate([0.0, 5.0, 1.0, 7.0, 2.0, 4.0, 9.0, 3.0]))
    own = {run: factor * value + (-1) ** run * 0.8 for run, value in theirs.items()}
    methods = {"abc": runs("abc", own), "sparse": runs("sparse", theirs)}
    panel = Panel(task="task", points=3)
    found = smaller_spread(Evidence([panel], [methods], "abc", "sparse", [], "mean", 0.5))
    assert found.p is not None
    assert (found.p < 0.05) is (found.verdict is not Verdict.undecided)
    assert (found.verdict is Verdict.supported) is (factor < 0.5)

"""Verdicts on claims: from the authors' own logs, and from runs whose answer is known."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paper_runs import AUTHORS, lines, needs_authors, write_csv
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.claims import (
    Claim,
    Judged,
    WinClaim,
    claims_table,
    judge_claims,
    read_claims,
    unused,
)
from tokencredit.papers.sources import read_sources
from tokencredit.papers.verdicts import Verdict, judge

LENGTH = 101


def judged(*paths: Path, points: int | None = None) -> dict[tuple[str, str], Judged]:
    """The findings by claim and task."""
    found = judge_claims(read_claims("abc"), read_sources(paths), points)
    return {(item.claim.name, item.task): item for item in found}


def verdict(
    found: dict[tuple[str, str], Judged], name: str, task: str = "positive_generation"
) -> str:
    return found[name, task].finding.verdict.value


@pytest.mark.parametrize(
    ("low", "high", "above", "margin", "expected"),
    [
        (0.5, 1.5, True, None, Verdict.supported),
        (-0.5, 2.5, True, None, Verdict.undecided),
        (-1.0, 1.0, True, None, Verdict.undecided),
        (-1.5, -0.5, True, None, Verdict.contradicted),
        (-1.5, -0.5, False, None, Verdict.supported),
        (-2.5, 0.5, False, None, Verdict.undecided),
        (0.5, 3.0, False, None, Verdict.contradicted),
        (-1.0, 1.0, True, 1.1, Verdict.equivalent),
        (-1.0, 1.0, True, 1.0, Verdict.undecided),
        (-0.5, -0.1, True, 1.0, Verdict.equivalent),
        (-1.5, -0.1, True, 1.0, Verdict.contradicted),
        (0.1, 0.5, True, 1.0, Verdict.supported),
        (0.1, 0.5, False, 1.0, Verdict.equivalent),
    ],
)
def test_the_rule(
    low: float, high: float, above: bool, margin: float | None, expected: Verdict
) -> None:
    """The four verdicts on a difference of 0; they move with the bound."""
    for bound in (0, 1, -3):
        found = judge(low + bound, high + bound, bound, above=above, margin=margin)
        assert found is expected


def test_a_margin_that_cannot_be_is_refused() -> None:
    given = {"name": "x", "says": "x", "where": "x", "panels": []}
    for test, margin in (("higher", 0.0), ("higher", -1.0), ("passes_maximum", 0.1)):
        with pytest.raises(UserError, match="margin"):
            Claim(**given, test=test, margin=margin)
    with pytest.raises(UserError, match="margin"):
        WinClaim(name="x", says="x", where="x", method="a", others=["b"], margin=0.5)


@needs_authors
def test_papers_2_8_the_authors_logs() -> None:
    found = judged(AUTHORS)
    sooner = found["sooner", "positive_generation"].finding
    assert "9.445 at step 89, is passed at step 41 (46 %)" in sooner.numbers
    assert sooner.verdict is Verdict.undecided, (
        "in half of the resampled runs it takes more than half"
    )
    for task in ("positive_generation", "summarisation", "single_turn_dialogue"):
        assert verdict(found, "higher", task) == "supported"
    assert "+1.101 [+0.752, +1.450]" in found["higher", "positive_generation"].finding.numbers
    assert found["higher", "summarisation"].finding.n == 5
    assert verdict(found, "stable") == "supported"
    assert verdict(found, "stable", "summarisation") == "cannot be decided"
    loss = found["lowest_value_loss", "single_turn_dialogue"].finding
    assert loss.verdict is Verdict.contradicted, "uniform's is .203, ABC's .479, the sparse .842"
    assert "abc − sparse = -0.363" in loss.numbers and "abc − uniform = +0.277" in loss.numbers
    assert verdict(found, "lower_value_loss", "single_turn_dialogue") == "supported"


@needs_authors
def test_what_is_not_in_the_runs_is_not_decided() -> None:
    found = judged(AUTHORS)
    assert "no kl in these runs" in found["equal_kl", "positive_generation"].finding.numbers
    assert "no value_loss" in found["lowest_value_loss", "positive_generation"].finding.numbers
    assert "not in these runs" in found["length", "generation_length"].finding.numbers
    for name, task in (("equal_kl", "positive_generation"), ("length", "generation_length")):
        assert verdict(found, name, task) == "cannot be decided"


@needs_authors
def test_changed_logs_change_the_verdict(tmp_path: Path) -> None:
    """The methods' names exchanged."""
    text = (AUTHORS / "positive_generation.csv").read_text()
    names = {"abc": "sparse", "sparse": "abc"}
    rows = [line.split(",") for line in text.splitlines()]
    turned = [",".join([row[0], names.get(row[1], row[1]), *row[2:]]) for row in rows]
    (tmp_path / "r.csv").write_text("\n".join(turned) + "\n")
    found = judged(tmp_path / "r.csv")
    assert verdict(found, "higher") == verdict(found, "stable") == "contradicted"
    assert verdict(found, "sooner") == "contradicted"


def curve(seed: int, level: float, noise: float, speed: float = 10.0) -> list[float]:
    """A curve that approaches its level."""
    draw = random.Random(seed)
    return [level * (1 - 2 ** (-step / speed)) + draw.gauss(0, noise) for step in range(LENGTH)]


def test_a_method_that_is_twice_as_fast_is_sooner(tmp_path: Path) -> None:
    runs = [
        lines(method, run, curve(run, 10.0 + top, 0.01, speed))
        for method, speed, top in (("abc", 4.0, 0.5), ("sparse", 20.0, 0.0))
        for run in range(5)
    ]
    path = write_csv(tmp_path / "r.csv", *runs)
    finding = judged(path)["sooner", "positive_generation"].finding
    assert finding.verdict is Verdict.supported and finding.n == 5


def test_a_maximum_that_is_never_passed(tmp_path: Path) -> None:
    runs = [
        lines(method, run, [level + run / 10] * LENGTH)
        for method, level in (("abc", 1.0), ("sparse", 2.0))
        for run in range(3)
    ]
    finding = judged(write_csv(tmp_path / "r.csv", *runs))["sooner", "positive_generation"].finding
    assert finding.verdict is Verdict.contradicted and "is never passed" in finding.numbers


def test_the_slope_over_beta_by_hand(tmp_path: Path) -> None:
    """Means β + run and 2 β + run: slopes 1 and 2, so 1.5 ± 12.706 · 0.5; a run that lacks a β is left out."""
    runs = [
        lines("abc", run, [run + slope * beta] * 251, beta=beta)
        for run, slope in ((1, 1.0), (2, 2.0), (3, 9.0))
        for beta in (0.0, 0.5, 1.0)
        if not (run == 3 and beta == 1.0)
    ]
    finding = judged(write_csv(tmp_path / "r.csv", *runs))["beta", "positive_generation"].finding
    assert finding.numbers == "slope +1.500 [-4.853, +7.853] over 3 values of β; 1 runs lack some β"
    assert (finding.verdict, finding.n) == (Verdict.undecided, 2)


def lengths_csv(path: Path, lost: int) -> Path:
    """Five sparse runs at each range, of which `lost` fall at the long one; ten dense runs do not."""
    kept, fallen = curve(0, 10.0, 0.0), [*curve(0, 10.0, 0.0)[:60], *[0.0] * 41]
    task = {"task": "generation_length"}
    runs = [
        lines(
            method,
            run,
            fallen if method == "sparse" and long and run < lost else kept,
            lengths=(90, 110) if long else (20, 30),
            **task,
        )  # type: ignore[arg-type]
        for method in ("sparse", "uniform", "abc")
        for long in (False, True)
        for run in range(5)
    ]
    return write_csv(path, *runs)


@pytest.mark.parametrize(
    ("lost", "expected"), [(0, "cannot be decided"), (1, "cannot be decided"), (4, "supported")]
)
def test_policies_that_are_lost_with_length(tmp_path: Path, lost: int, expected: str) -> None:
    """Fisher: 4 of 5 against 0 of 10 has p = C(5, 4) / C(15, 4) = 5 / 1365."""
    found = judged(lengths_csv(tmp_path / "r.csv", lost))
    finding = found["length", "generation_length"].finding
    assert finding.verdict.value == expected
    assert f"{lost} of 5 at 90–110 tokens; uniform, abc: 0 of 10" in finding.numbers
    if lost == 4:
        assert finding.numbers.endswith("p = 0.0037")


def test_reward_at_equal_kl_by_hand(tmp_path: Path) -> None:
    """KL rises by 1 a step for both; ABC's reward is three times it, the other's twice: 5.5/10 of the range."""
    rising = [float(step) for step in range(151)]
    runs = [
        lines(method, run, [slope * (1 + run / 100) * kl for kl in rising], kl=rising)
        for method, slope in (("abc", 3.0), ("sparse", 2.0))
        for run in range(3)
    ]
    runs += [lines(method, 9, [1.0] * 151, kl=[-x for x in rising]) for method in ("abc", "sparse")]
    finding = judged(write_csv(tmp_path / "r.csv", *runs))[
        "equal_kl", "positive_generation"
    ].finding
    top = 145.5  # running mean of 141 … 150
    expected = 0.55 * top * 1.01
    assert finding.numbers.startswith(f"abc − sparse = +{expected:.3f} [")
    assert finding.numbers.endswith("1 pairs have no common range")
    assert (finding.verdict, finding.n) == (Verdict.supported, 3)


def test_runs_that_are_in_no_pair_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", lines("abc", 4, [1.0] * 7, status="failed"))
    sources = read_sources([path])
    said = unused(judge_claims(read_claims("abc"), sources), sources)
    assert "r: positive_generation, abc, run 4: 7 of 101 points (failed)" in said


def test_one_run_each_decides_nothing(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "r.csv", lines("abc", 1, [2.0] * 101), lines("sparse", 1, [1.0] * 101)
    )
    found = judged(path)
    for name in ("sooner", "higher", "stable"):
        assert verdict(found, name) == "cannot be decided"
    assert "1 pairs of runs" in found["higher", "positive_generation"].finding.numbers


def test_the_command_and_the_table(tmp_path: Path) -> None:
    path = lengths_csv(tmp_path / "r.csv", 4)
    answer = CliRunner().invoke(app, ["claims", "abc", "--runs", str(path)])
    assert answer.exit_code == 0, answer.output
    assert "supported (primary): generation_length, r: sparse: 0 of 5 runs lost" in answer.output
    assert CliRunner().invoke(app, ["claims"]).output == "abc\ndae\nrto\nslides\ntlcr\n"
    table = claims_table(judge_claims(read_claims("abc"), read_sources([path])))
    assert "**supported**" in table and table.splitlines()[2].startswith("| claim")
    for verdict in Verdict:
        assert f"*{verdict.value}*" in table.splitlines()[0] and verdict.value in answer.output


def test_an_unknown_paper_is_refused() -> None:
    with pytest.raises(UserError, match=r"nobody.*abc"):
        read_claims("nobody")

"""Claims on classes of words: the statistic by hand, corrected verdicts, and what is missing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.file_claims import judge_file_claims, read_file_claims
from tokencredit.papers.page import Page
from tokencredit.papers.token_classes import (
    ADVANTAGES,
    HEAD,
    ClassClaim,
    class_means,
    judge_class,
)
from tokencredit.papers.verdicts import Verdict

Line = tuple[int, str, str, float]
"""Row, answer, class, and advantage."""
BY_HAND: list[Line] = [
    (3, "chosen", "avoiding", 0.5),
    (3, "rejected", "avoiding", 0.1),
    (3, "rejected", "other", -9.0),
    (5, "chosen", "avoiding", 0.6),
    (8, "chosen", "violent", -1.0),
]


def write(folder: Path, lines: list[Line]) -> Path:
    """A file of advantages, each token of one character."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(row, who, n, n, n + 1, kind, x) for n, (row, who, kind, x) in enumerate(lines)]
    said = [HEAD, *rows]
    path = folder / ADVANTAGES
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in said))
    return path


def claim(word_class: str = "avoiding", *, positive: bool = True) -> ClassClaim:
    more = {"name": "x", "says": "It does", "where": "here", "task": "hh_harmless"}
    return ClassClaim(**more, word_class=word_class, positive=positive)


def test_the_mean_is_over_a_pairs_tokens_then_over_pairs(tmp_path: Path) -> None:
    """Pairs .3 and .6: mean .45, se .15; t with one degree of freedom is 12.706."""
    means = class_means(write(tmp_path, BY_HAND))
    assert means["avoiding"] == {3: pytest.approx(0.3), 5: pytest.approx(0.6)}
    found = judge_class(claim(), means["avoiding"])
    assert found.n == 2 and found.verdict is Verdict.undecided
    low, high = 0.45 - 12.706 * 0.15, 0.45 + 12.706 * 0.15
    assert f"+0.450 [{low:+.3f}, {high:+.3f}]" in found.numbers
    assert found.p == pytest.approx(1 - 2 * math.atan(3) / math.pi)  # t = 3, Cauchy


def test_the_interval_is_over_pairs_and_not_over_tokens(tmp_path: Path) -> None:
    """A thousand equal tokens of one pair weigh as one does."""
    more: list[Line] = [(5, "chosen", "avoiding", 0.6)] * 1000
    means = class_means(write(tmp_path, BY_HAND + more))
    assert judge_class(claim(), means["avoiding"]).numbers.startswith(
        judge_class(claim(), {3: 0.3, 5: 0.6}).numbers[:40]
    )


def test_sides() -> None:
    """Above zero in every pair: for one claim, against the other."""
    values = {n: 0.5 + 0.01 * n for n in range(10)}
    assert judge_class(claim(), values).verdict is Verdict.supported
    assert judge_class(claim(positive=False), values).verdict is Verdict.contradicted
    few = judge_class(claim(), {1: 0.5})
    assert few.verdict is Verdict.undecided and few.numbers == "1 pairs have avoiding words"


def test_without_a_file_there_is_no_data(tmp_path: Path) -> None:
    (judged,) = judge_file_claims([claim()], {"hh_harmless": tmp_path})
    assert judged.finding.word == "no data" and "no advantages.csv" in judged.finding.numbers


def test_the_three_claims_are_one_family_and_none_stands_by_itself(tmp_path: Path) -> None:
    lines: list[Line] = [(n, "chosen", "avoiding", 0.2 + 0.01 * (n % 3)) for n in range(9)]
    lines += [(n, "rejected", "violent", -0.1 - 0.01 * (n % 2)) for n in range(9)]
    lines += [(n, "rejected", "affirmative", (-1) ** n * 0.1) for n in range(8)]
    write(tmp_path / "dae" / "hh_harmless", lines)
    judged = Page("dae/hh_harmless", tmp_path).judged("dae")
    by_name = {item.claim.name: item.finding for item in judged}
    assert by_name["avoiding_positive"].word == by_name["violent_negative"].word == "supported"
    assert by_name["affirmative_negative"].word == "cannot be decided"
    assert not any(item.primary for item in judged)
    ordered = sorted((f.p or 0, f.adjusted or 0) for f in by_name.values())
    assert [adjusted / p for p, adjusted in ordered] == pytest.approx([3, 2, 1])


def test_the_command_prints_them_from_a_folder_or_says_that_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "dae").mkdir(parents=True)
    none = CliRunner().invoke(app, ["claims", "dae"])
    assert none.exit_code == 0, none.output
    assert none.output.count("no data: hh_harmless: no advantages.csv yet") == 3
    write(tmp_path / "given", BY_HAND)
    some = CliRunner().invoke(app, ["claims", "dae", "--runs", "given"])
    assert some.exit_code == 0, some.output
    assert "mean advantage of avoiding words = +0.450" in some.output
    assert "1 pairs have violent words" in some.output
    two = CliRunner().invoke(app, ["claims", "dae", "--runs", "given", "--runs", "other"])
    assert isinstance(two.exception, UserError) and "name one folder" in str(two.exception)


def test_the_claims_state_their_classes_and_sides() -> None:
    found = {each.word_class: each.positive for each in read_file_claims("dae")}
    assert found == {"avoiding": True, "affirmative": False, "violent": False}
    assert read_file_claims("abc") == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("3,chosen", "3,best", "line 2: 'best'"),
        ("0.5", "nan", "line 2: 'chosen', 'avoiding', nan"),
        ("5,chosen", "five,chosen", "line 5"),
        ("advantage\n", "reward\n", "'advantage'; the columns are row, answer"),
        ("avoiding,0.5", ",0.5", "line 2"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = write(tmp_path, BY_HAND)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        class_means(path)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tokens"):
        class_means(write(tmp_path, []))

"""Claims that computed numbers decide: by hand, from made files, and those of the slides."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tokencredit.errors import UserError
from tokencredit.papers.file_claims import (
    NUMBERS,
    NumberClaim,
    judge_file_claims,
    numbers_of,
    read_file_claims,
)
from tokencredit.papers.ledger import ledger
from tokencredit.papers.verdicts import Verdict

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def claim(*, above: bool = True, bound: float = 0.0) -> NumberClaim:
    return NumberClaim(name="it", says="", where="", task="sums", bound=bound, above=above)


def written(folder: Path, values: list[float], name: str = "it") -> Path:
    rows = [f"{name},{seed},{value!r}" for seed, value in enumerate(values)]
    (folder / NUMBERS).write_text("\n".join(["claim,seed,value", *rows, "other,0,9"]) + "\n")
    return folder / NUMBERS


@pytest.mark.parametrize(
    ("above", "bound", "verdict"),
    [
        (True, 0.0, Verdict.supported),
        (False, 0.0, Verdict.contradicted),
        (True, 2.0, Verdict.undecided),
        (False, 9.0, Verdict.supported),
    ],
)
def test_the_interval_of_the_mean_decides(
    tmp_path: Path, above: bool, bound: float, verdict: Verdict
) -> None:
    """1, 2, 3: mean 2, t interval 2 ± 4.303 / √3, so from −.484 without spread; ± 2.484."""
    written(tmp_path, [1.9, 2.0, 2.1])
    found = claim(above=above, bound=bound).judged_by(tmp_path / NUMBERS)
    assert (found.verdict, found.n) == (verdict, 3)
    assert "mean 2 [1.75, 2.25], from 1.9 to 2.1" in found.text  # 4.3027 × .1 / √3 = .2484


def test_too_few_numbers_decide_nothing(tmp_path: Path) -> None:
    written(tmp_path, [1.0])
    (judged,) = judge_file_claims([claim()], {"sums": tmp_path})
    assert judged.finding.verdict is Verdict.undecided and "1 numbers" in judged.finding.text
    (judged,) = judge_file_claims([claim()], {"sums": tmp_path / "nowhere"})
    assert not judged.finding.data


@pytest.mark.parametrize("line", ["it,0,nan", "it,0,", ",0,1", "it"])
def test_a_line_without_a_number_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / NUMBERS).write_text(f"claim,seed,value\nit,0,1\n{line}\n")
    with pytest.raises(UserError, match=r"numbers\.csv.*3"):
        numbers_of(tmp_path / NUMBERS)


def test_every_statement_of_the_slides_has_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    known = numbers_of(EXPERIMENTS / "slides" / "identities" / NUMBERS)
    claims = read_file_claims("slides")
    assert [each.name for each in claims] == list(known) == list(script(monkeypatch).STATEMENTS)
    assert {len(values) for values in known.values()} == {10}
    assert "## slides/identities" in ledger(EXPERIMENTS)


def test_without_numbers_the_ledger_names_the_script(tmp_path: Path) -> None:
    """And that script is there."""
    command = "python experiments/slides/identities.py --out experiments/slides/identities"
    assert f"`{command}` (1 cells, hours unknown)" in ledger(tmp_path)
    assert (EXPERIMENTS.parent / command.split()[1]).is_file()


def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(EXPERIMENTS / "slides"), *sys.path])
    import identities

    found: ModuleType = identities
    return found


def test_the_numbers_are_those_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first problem of each statement but PPO's, which takes seconds; and a wrong one is seen."""
    known, made = numbers_of(EXPERIMENTS / "slides" / "identities" / NUMBERS), script(monkeypatch)
    for name in ("multiplied", "shifted", "circles", "hindsight"):
        assert made.STATEMENTS[name](0) == pytest.approx(known[name][0], abs=1e-9), name
    assert made.closed_form(0) < 1e-6
    off = lambda *given: given[1] - 1  # noqa: E731 - advantages of another sum
    monkeypatch.setattr(made, "advantages", off)
    assert made.hindsight(0) > 0.1

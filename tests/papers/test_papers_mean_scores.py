"""Mean scores of answers by several scorers, beside the paper's, and claims about one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.papers.claims import WinClaim, judge_win_claim
from tokencredit.papers.formats import Format, Runs
from tokencredit.papers.kinds import find_table
from tokencredit.papers.mean_scores import MeanScoreEntry, MeanScores
from tokencredit.papers.scores import Line, find_comparisons, write_scores
from tokencredit.papers.verdicts import Verdict

SCORES = {
    "sequence": {"ppo_seq": [[4.0, 5.0], [4.0, 6.0]], "tlcr": [[3.0, 6.0], [5.0, 5.0]]},
    "fixed": {"ppo_seq": [[1.0, 1.0], [2.0, 2.0]], "tlcr": [[9.0, 9.0], [8.0, 8.0]]},
}
"""By scorer and method: two seeds of two prompts."""


def write(folder: Path) -> Path:
    for measure, methods in SCORES.items():
        rows: list[Line] = [
            (method, seed, prompt, score)
            for method, seeds in methods.items()
            for seed, own in enumerate(seeds)
            for prompt, score in enumerate(own)
        ]
        write_scores(rows, folder / measure / "scores.csv")
    return folder


def made(*places: Path) -> MeanScores:
    entry = find_table("tlcr/figure6")
    assert isinstance(entry, MeanScoreEntry)
    found = entry.made(Runs(lambda _: [], lambda _: find_comparisons(places)))
    assert isinstance(found, MeanScores)
    return found


def test_means_are_over_prompts_then_seeds_and_stand_beside_the_papers(tmp_path: Path) -> None:
    table = made(write(tmp_path))
    assert table.means("sequence", "ppo_seq") == [4.5, 5.0] and not table.means("fixed", "sft")
    lines = table.text(Format.markdown).splitlines()
    (row,) = [line for line in lines if line.startswith("| PPO_seq")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[1].startswith("4.750 [") and cells[1].endswith("(4.28)")
    assert cells[2].startswith("1.500 [") and cells[2].endswith("(25.7)")
    assert cells[3] == "– (17)"
    assert "Note: no scores by the continuous rewards of tokens." in lines
    assert "2 prompts" in lines[-2]


def test_the_csv_has_every_number(tmp_path: Path) -> None:
    rows = [line.split(",") for line in made(write(tmp_path)).text(Format.csv).splitlines()]
    (own,) = [row for row in rows if row[:2] == ["sequence", "tlcr"]]
    assert own[2] == "2" and float(own[3]) == 4.75 and own[-1] == "4.13"
    assert float(own[4]) < 4.75 < float(own[5])
    (none,) = [row for row in rows if row[:2] == ["continuous", "tlcr"]]
    assert none[2:] == ["0", "", "", "", ""]


def test_two_comparisons_by_one_scorer_are_refused(tmp_path: Path) -> None:
    places = write(tmp_path / "a"), write(tmp_path / "b")
    with pytest.raises(UserError, match="are both of fixed"):
        made(*places)
    with pytest.raises(UserError, match="--points"):
        find_table("tlcr/figure6").made(Runs(lambda _: [], lambda _: []), points=3)


def test_an_entry_says_what_is_wrong_with_it() -> None:
    given = {
        "title": "x", "source": "x", "methods": {"tlcr": "TLCR"}, "task": "x",
        "measures": {"sequence": "reward"},
    }  # fmt: skip
    for paper, match in (
        ({"length": {"tlcr": 1.0}}, "paper = 'length': must be of sequence"),
        ({"sequence": {"ppo": 1.0}}, r"paper.sequence = \['ppo'\]: each must be one of methods"),
    ):
        with pytest.raises(UserError, match=match):
            MeanScoreEntry.read({**given, "paper": paper}, Path("x.yaml"))


@pytest.mark.parametrize(("measure", "found"), [("fixed", 1), ("continuous", 0), (None, 2)])
def test_a_claim_may_be_about_one_scorer(tmp_path: Path, measure: str | None, found: int) -> None:
    claim = WinClaim(
        name="x", says="x", where="x", method="tlcr", others=["ppo_seq"], measure=measure
    )
    judged = [
        item for item in judge_win_claim(claim, find_comparisons([write(tmp_path)])) if item.source
    ]
    assert len(judged) == found
    if measure == "fixed":  # every prompt of both seeds is won
        assert judged[0].finding.verdict is Verdict.supported
        assert judged[0].source == "fixed/scores.csv"

"""Matrices of win rates beside the paper's: by hand, from a file, and nothing left out unsaid."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from paper_runs import lines, write_csv
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.claims import WinClaim, judge_win_claim, read_win_claims
from tokencredit.papers.formats import Format
from tokencredit.papers.kinds import find_table
from tokencredit.papers.page import write_page
from tokencredit.papers.scores import Line, find_comparisons, read_scores, write_scores
from tokencredit.papers.verdicts import Verdict
from tokencredit.papers.win_report import WinEntry, WinTable, WinTables, make_win_tables

# papers.md 8: Table 1(a) of the first version; a row beats columns.
PAPER = {
    "rto": [0.500, 0.556, 0.629, 0.600, 0.611],
    "dpo": [0.444, 0.500, 0.578, 0.596, 0.573],
    "sft": [0.371, 0.422, 0.500, 0.487, 0.525],
    "ppo": [0.400, 0.404, 0.513, 0.500, 0.511],
    "dppo": [0.389, 0.427, 0.475, 0.489, 0.500],
}
ByHand = Mapping[str, Mapping[int | None, list[float]]]
SCORES: ByHand = {
    "rto": {0: [3.0, 1.0, 2.0, 5.0], 1: [1.0, 0.0, 2.0, 0.0]},
    "dppo": {0: [1.0, 1.0, 3.0, 4.0], 1: [0.0, 1.0, 1.0, -1.0]},
    "sft": {None: [0.0, 0.0, 0.0, 0.0]},
}


def entry() -> WinEntry:
    found = find_table("rto/table1a")
    assert isinstance(found, WinEntry)
    return found


def write(folder: Path, scores: ByHand = SCORES) -> Path:
    """scores.csv of these methods, seeds, and prompts."""
    rows: list[Line] = [
        (method, seed, prompt, score)
        for method, runs in scores.items()
        for seed, own in runs.items()
        for prompt, score in enumerate(own)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(rows, folder / "scores.csv")
    return folder / "scores.csv"


def tables_of(*paths: Path) -> list[WinTable]:
    return make_win_tables(entry(), find_comparisons(paths))


def test_papers_8_the_papers_matrix_is_antisymmetric_and_shown_without_runs(tmp_path: Path) -> None:
    made = entry()
    assert made.paper == PAPER
    for row in PAPER:
        for column in PAPER:
            rates = made.rate(row, column), made.rate(column, row)
            assert sum(x for x in rates if x is not None) == pytest.approx(1)
    answer = CliRunner().invoke(app, ["table", "rto/table1a", "--runs", str(tmp_path)])
    assert answer.exit_code == 0
    assert "| RTO              | 0.500   | (0.556) | (0.629) | (0.600) | (0.611) |" in answer.output
    assert "there is no comparison yet" in answer.output


def test_a_matrix_by_hand(tmp_path: Path) -> None:
    """Seed 0: won, drawn, lost, won = 5/8. Seed 1: won, lost, won, won = 6/8. Mean 11/16; standard
    error over the two 1/16, t at one degree of freedom 12.7062."""
    path = write(tmp_path / "win_rates")
    (table,) = tables_of(path)
    assert table.names == ["rto", "dpo", "sft", "ppo", "dppo"]
    assert table.matrix is not None
    cell = table.matrix.cells["rto", "dppo"]
    assert cell.rate.mean == 11 / 16 and cell.seeds is not None
    assert cell.seeds.mean == 11 / 16 and cell.seeds.n == 2
    assert cell.seeds.high - cell.seeds.mean == pytest.approx(12.7062 / 16, rel=1e-5)
    text = WinTables([table]).text(Format.markdown)
    assert "0.688 [-0.107, 1.482] (0.611)" in text
    assert "0.312 [-0.482, 1.107] (0.389)" in text, "the other side mirrors it"
    assert "(0.444)" in text, "a method without runs keeps the paper's number"
    assert "win_rates/scores.csv, 4 prompts; in brackets the 95 % t interval over seeds." in text


def test_a_model_without_seed_meets_every_seed(tmp_path: Path) -> None:
    """Seed 0 wins all four of SFT's zeros; seed 1 wins two and draws two."""
    (table,) = tables_of(write(tmp_path))
    assert table.matrix is not None
    cell = table.matrix.cells["rto", "sft"]
    assert cell.seeds is not None and cell.seeds.n == 2
    assert cell.rate.mean == pytest.approx((1 + 0.75) / 2)


def test_a_single_run_has_the_error_over_prompts(tmp_path: Path) -> None:
    one = {name: {0: next(iter(runs.values()))} for name, runs in SCORES.items()}
    (table,) = tables_of(write(tmp_path, one))
    text = WinTables([table]).text(Format.markdown)
    # shares 1, ½, 0, 1: deviations 3/8, 1/8, 5/8, 3/8
    assert f"0.625 ± {(44 / 64 / 3 / 4) ** 0.5:.3f} (0.611)" in text
    assert "± the standard error over prompts, where a single pair of models met" in text


def test_seeds_that_not_all_have_are_named(tmp_path: Path) -> None:
    more = {**SCORES, "rto": {**SCORES["rto"], 7: [9.0, 9.0, 9.0, 9.0]}}
    (table,) = tables_of(write(tmp_path, more))
    assert table.matrix is not None and table.matrix.cells["rto", "dppo"].rate.mean == 11 / 16
    assert list(table.notes) == ["rto, seed 7: dppo has no such seed, so the two do not meet"]


def test_what_is_not_shown_takes_no_seeds_away(tmp_path: Path) -> None:
    """A try with one seed beside two methods with two; and methods without a seed in common."""
    one = {**SCORES, "mine": {0: [1.0] * 4}}
    (table,) = tables_of(write(tmp_path, one))
    assert table.matrix is not None
    seeds = table.matrix.cells["rto", "dppo"].seeds
    assert seeds is not None and seeds.n == 2
    assert list(table.notes) == ["not shown: mine"]
    apart = {"rto": SCORES["rto"], "dppo": {5: [1.0] * 4, 6: [1.0] * 4}, "sft": SCORES["sft"]}
    (table,) = tables_of(write(tmp_path, apart))
    text = WinTables([table]).text(Format.markdown)
    row = next(line for line in text.splitlines() if line.startswith("| RTO"))
    assert row.split("|")[5].split() == ["(0.600)"] and row.split("|")[6].split() == ["(0.611)"]
    assert "rto, seed 0: dppo has no such seed" in text
    claim = WinClaim(name="x", says="x", where="x", method="rto", others=["dppo"])
    (judged,) = judge_win_claim(claim, find_comparisons([tmp_path]))
    assert judged.finding.numbers == "against dppo: no seed in common"
    assert judged.finding.verdict is Verdict.undecided


def test_methods_of_another_name_and_failed_cells_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, {**SCORES, "mine": {0: [1.0] * 4, 1: [1.0] * 4}})
    write_csv(tmp_path / "a.csv", lines("ppo", 3, [1.0, 2.0], task="win_rates", status="failed"))
    (table,) = tables_of(path)
    assert list(table.notes) == ["not shown: mine", "not judged: ppo, seed 3, failed after 2 steps"]


def test_the_command_writes_all_forms(tmp_path: Path) -> None:
    path, out = write(tmp_path / "cells"), tmp_path / "out"
    asked = ["table", "rto/table1a", "--runs", str(path.parent), "--out", str(out)]
    answer = CliRunner().invoke(app, [*asked, "--format", "csv"])
    assert answer.exit_code == 0, answer.output
    assert sorted(p.name for p in out.iterdir()) == ["table1a.csv", "table1a.md", "table1a.tex"]
    rows = list(csv.DictReader(io.StringIO((out / "table1a.csv").read_text())))
    found = {(row["row"], row["column"]): row for row in rows}
    assert len(rows) == 5 * 4, "the paper's five methods; the sixth has no numbers here"
    row = found["dppo", "rto"]
    assert (row["rate"], row["wins"], row["paper"]) == ("0.3125", "1", "0.389")
    assert found["ppo", "dpo"]["rate"] == "" and found["ppo", "dpo"]["paper"] == "0.404"
    assert r"\begin{tabular}{llllll}" in (out / "table1a.tex").read_text()
    refused = CliRunner().invoke(app, [*asked, "--points", "3"])
    assert "--points" in str(refused.exception)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_scores_are_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, x: list[float]
) -> None:
    path = write(tmp_path_factory.mktemp("scores"), {"a": {0: x}, "b": {None: x}})
    methods = read_scores(path).methods
    assert [list(methods[n][s].values()) for n, s in (("a", 0), ("b", None))] == [x, x]


HEAD = "method,seed,prompt,score"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEAD}\na,0,1,2\na,0,1,3\n", "line 3: prompt 1 is there twice"),
        (f"{HEAD}\na,0,1,2\nb,0,2,3\n", "b, seed 0 did not answer the prompts that a did"),
        (f"{HEAD}\na,0,1,2\n", "needs the scores of two methods"),
        (f"{HEAD}\na,0,1,nan\n", "line 2: nan is no score"),
        (f"{HEAD}\na,x,1,2\n", "line 2: invalid literal"),
        (f"{HEAD}\na,,1,2\na,0,1,2\nb,0,1,2\n", "a has runs with a seed and without"),
    ],
)
def test_a_damaged_file_is_explained(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"scores\.csv") as error:
        read_scores(path)
    assert words in str(error.value)


def test_a_comparison_of_other_methods_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path, {"x": {0: [1.0]}, "y": {0: [2.0]}})
    (table,) = tables_of(path)
    assert table.matrix is None and "has fewer than two of the methods rto, dpo" in table.notes[0]
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_comparisons([tmp_path / "absent"])


def test_other_files_are_left_alone_and_a_named_one_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "win_matrix.csv").write_text("Win Rate,a,b\na,0.5,0.5\nb,0.5,0.5\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scores.csv").write_text("player,points\nx,1\n")
    (table,) = tables_of(tmp_path)
    assert table.matrix is not None and list(table.notes) == []
    mine = path.rename(tmp_path / "mine.csv")
    (table,) = tables_of(mine)
    assert table.comparison is not None and table.comparison.place.endswith("/mine.csv")
    mine.write_bytes(b"method,seed,prompt,score\n\xe9,0,1,2\n")
    with pytest.raises(UserError, match=r"no text in UTF-8"):
        find_comparisons([mine])
    write(tmp_path / "x").with_name("comparison.json").write_text("{")
    with pytest.raises(UserError, match=r"comparison\.json"):
        find_comparisons([tmp_path / "x"])


@pytest.mark.parametrize(
    ("paper", "words"),
    [
        ("{rto: [0.5, 0.6], dpo: [0.4]}", "paper.dpo = [0.4]: must have 2 numbers"),
        ("{rto: [0.5, 0.6], who: [0.4, 0.5]}", "paper = ['who']: each row must be one of methods"),
    ],
)
def test_a_matrix_of_ones_own_must_be_square(paper: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    head = "kind: win_rates\ntitle: t\nsource: s\nmethods: {rto: RTO, dpo: DPO}\n"
    file.write_text(f"{head}paper: {paper}\n")
    with pytest.raises(UserError) as error:
        find_table(str(file))
    assert words in str(error.value)


def shares(*won: int) -> ByHand:
    """Two methods over 20 prompts, of which a wins so many, a number for each seed."""
    return {
        "a": {seed: [1.0] * n + [-1.0] * (20 - n) for seed, n in enumerate(won)},
        "b": {seed: [0.0] * 20 for seed in range(len(won))},
    }


@pytest.mark.parametrize(
    ("won", "verdict"),
    [
        ((14, 15, 16), Verdict.supported),
        ((8, 10, 18), Verdict.undecided),
        ((6, 8, 9), Verdict.undecided),
        ((4, 5, 6), Verdict.contradicted),
        ((20,), Verdict.undecided),
    ],
)
def test_verdicts_on_win_rates(won: tuple[int, ...], verdict: Verdict, tmp_path: Path) -> None:
    claim = WinClaim(name="x", says="a wins", where="here", method="a", others=["b"])
    (judged,) = judge_win_claim(claim, find_comparisons([write(tmp_path, shares(*won))]))
    assert judged.finding.verdict is verdict and judged.finding.n == len(won)
    if won == (14, 15, 16):  # mean ¾, standard error 0.05 / √3, t at two degrees 4.3027
        assert judged.finding.numbers == "against b: 0.750 [0.626, 0.874]"


def test_all_must_be_beaten(tmp_path: Path) -> None:
    scores = {**shares(14, 15, 16), "c": {seed: [2.0] * 20 for seed in range(3)}}
    claim = WinClaim(name="x", says="a wins", where="here", method="a", others=["b", "c"])
    (judged,) = judge_win_claim(claim, find_comparisons([write(tmp_path, scores)]))
    assert judged.finding.verdict is Verdict.contradicted
    lacking = WinClaim(name="x", says="a wins", where="here", method="a", others=["d"])
    (judged,) = judge_win_claim(lacking, find_comparisons([tmp_path]))
    assert judged.finding.numbers == "no d in this comparison"


def test_claims_of_win_rates_stand_beside_those_of_curves(tmp_path: Path) -> None:
    assert {c.name for c in read_win_claims("rto")} >= {"best", "token_rewards_same_kl"}
    assert read_win_claims("abc") == []
    scores = {name: {s: [float(k + s)] * 4 for s in range(2)} for k, name in enumerate(
        ("dppo_same_kl", "dppo", "ppo", "sft", "dpo", "rto"))}  # fmt: skip
    write(tmp_path, scores)
    alone = CliRunner().invoke(app, ["claims", "rto", "--runs", str(tmp_path)])
    assert alone.exit_code == 0 and "against dpo: 1.000" in alone.output
    runs = [
        lines(method, run, [0.0] * 60, task="win_rates", beta="")
        for method in ("rto", "dppo")
        for run in (0, 1)
    ]
    write_csv(tmp_path / "runs.csv", *runs)
    answer = CliRunner().invoke(app, ["claims", "rto", "--runs", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert "RTO wins more than half of the prompts against every baseline" in answer.output
    assert "against dpo: 1.000 [1.000, 1.000]; against sft: 1.000" in answer.output
    assert "higher implicit reward than DPPO" in answer.output


def test_a_page_shows_the_matrix_and_its_verdicts(tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "rto"
    folder.mkdir(parents=True)
    template = '{{ cells() }}\n{{ table("rto/table1a") }}\n{{ claims("rto") }}\n'
    (folder / "win_rates.md.j2").write_text(template)
    (page,) = write_page("rto/win_rates", folder.parent)
    assert "(0.611)" in page.read_text() and "no cells yet" in page.read_text()
    path = write(folder / "win_rates")
    (folder / "win_rates" / "comparison.json").write_text(json.dumps({"about": "cpu tiny"}))
    runs = [lines("rto", run, [1.0] * 60, task="win_rates", beta="") for run in (0, 1)]
    write_csv(path.parent / "a.csv", *runs)
    (page,) = write_page("rto/win_rates", folder.parent)
    text = page.read_text()
    assert "0.688 [-0.107, 1.482] (0.611)" in text
    assert "against dppo: 0.688 [-0.107, 1.482]" in text and "2 cells: 2 complete" in text

"""Figures of pairs whose texts lie in a data set: joined by row, a few of them, or what is missing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.answers import chosen_rows
from tokencredit.papers.kinds import find_any_figure
from tokencredit.papers.page import write_page
from tokencredit.papers.pair_maps import PairMap
from tokencredit.papers.token_classes import HEAD
from tokencredit.papers.token_maps import Text

ROWS = range(7)


def entry() -> PairMap:
    found = find_any_figure("dae/figure1")
    assert isinstance(found, PairMap)
    return found


def write(folder: Path) -> Path:
    """Numbers of seven pairs; of each answer the first two letters and the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(HEAD)]
    for row in ROWS:
        for place, answer in enumerate(("chosen", "rejected")):
            lines += [
                f"{row},{answer},0,0,2,other,{0.1 * (row + 1) - place}",
                f"{row},{answer},1,2,6,violent,-0.05",
            ]
    (folder / "advantages.csv").write_text("\n".join(lines) + "\n")
    return folder


def transcripts(path: Path, count: int = len(ROWS)) -> Path:
    """Pairs as HH-RLHF has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        for row in range(count):
            asked = f"\n\nHuman: Question <b> {row}?\n\nAssistant:"
            both = {"chosen": f"{asked} Yes {row}", "rejected": f"{asked} Noo {row}"}
            print(json.dumps(both), file=file)
    return path


def preferences(path: Path, end: str = "") -> Path:
    """The same as prompt and answers, with something at the end of each."""
    rows = [
        {"prompt": f"Question {row}?", "chosen": f" Yes {row}{end}", "rejected": f" Noo {row}{end}"}
        for row in ROWS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENCREDIT_DATA", raising=False)
    (tmp_path / "experiments").mkdir()
    return tmp_path


def test_texts_are_those_of_the_rows_that_the_numbers_name(clone: Path) -> None:
    """The four pairs of the smallest hashes, each answer in colours of its own largest number."""
    texts = {
        (row, answer): Text("Q", f"{answer[:2]}{row}   ")
        for row in ROWS
        for answer in ("chosen", "rejected")
    }
    found = entry().with_texts([texts], clone).coloured(write(clone / "x"))
    shown = chosen_rows({"a": dict.fromkeys(ROWS)}, 4)
    assert [one.row for one in found] == [row for row in sorted(shown) for _ in range(2)]
    assert [one.name for one in found[:2]] == ["the preferred answer", "the other answer"]
    assert [one.text.text[2] for one in found] == [str(one.row) for one in found]
    assert found[0].unit == pytest.approx(0.1 * (found[0].row + 1))
    assert found[1].unit == pytest.approx(abs(0.1 * (found[1].row + 1) - 1))
    assert "nobody has chosen" in entry().remarks(Path())[1]


def test_the_command_draws_from_the_folder_of_the_data(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(clone / "experiments" / "dae" / "hh_harmless")
    transcripts(clone / "data" / entry().texts)
    monkeypatch.setenv("TOKENCREDIT_DATA", str(clone / "data"))
    drawn = CliRunner().invoke(app, ["figure", "dae/figure1", "--out", "out"])
    assert drawn.exit_code == 0, drawn.output
    names = sorted(path.name for path in (clone / "out").iterdir())
    assert names == ["figure1.csv", "figure1.html", "figure1.pdf", "figure1.png"]
    page = (clone / "out" / "figure1.html").read_text()
    assert "Question" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "largest magnitude of each answer" in drawn.output
    assert "Yes" not in (clone / "out" / "figure1.csv").read_text()


def test_any_file_of_pairs_can_be_named(clone: Path) -> None:
    write(clone / "stage")
    given = ["figure", "dae/figure1", "--runs", "stage", "--out", "out"]
    drawn = CliRunner().invoke(app, [*given, "--texts", str(preferences(clone / "own.jsonl"))])
    assert drawn.exit_code == 0, drawn.output
    assert "Question" in (clone / "out" / "figure1.html").read_text()
    few = CliRunner().invoke(app, [*given, "--texts", str(transcripts(clone / "few.gz", 1))])
    assert isinstance(few.exception, UserError)
    assert "is missing or not as long as advantages.csv says" in str(few.exception)
    assert "few.gz" in str(few.exception)


def test_transcripts_are_read_as_the_numbers_are(clone: Path) -> None:
    """As conversations, whose answers begin with a letter, or as texts, that begin with a space."""
    numbers = write(clone / "stage") / "advantages.csv"
    given = ["figure", "dae/figure1", "--runs", "stage", "--out", "out", "--texts", "own.gz"]
    transcripts(clone / "own.gz")
    for reading in ("texts", "conversations"):
        drawn = CliRunner().invoke(app, given)
        assert drawn.exit_code == 0, (reading, drawn.exception)
        numbers.write_text(numbers.read_text().replace(",2,6,", ",2,5,"))


@pytest.mark.parametrize(("end", "fits"), [("", True), (" \n", True), (" more", False)])
def test_pairs_of_other_texts_are_refused(clone: Path, end: str, fits: bool) -> None:
    """Longer answers have all characters that the numbers name, and others behind them."""
    write(clone / "stage")
    preferences(clone / "own.jsonl", end)
    given = ["figure", "dae/figure1", "--runs", "stage", "--out", "out", "--texts", "own.jsonl"]
    drawn = CliRunner().invoke(app, given)
    assert (drawn.exit_code == 0) is fits
    assert fits or "not as long as advantages.csv says" in str(drawn.exception)


@pytest.mark.parametrize("variable", [None, "/nowhere"])
def test_what_is_missing_is_said_with_what_helps(
    clone: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("TOKENCREDIT_DATA", variable)
    absent = CliRunner().invoke(app, ["figure", "dae/figure1"])
    assert isinstance(absent.exception, UserError)
    assert "no advantages.csv; `tokencredit train -m experiment=dae/hh_harmless" in str(
        absent.exception
    )
    write(clone / "experiments" / "dae" / "hh_harmless")
    untold = CliRunner().invoke(app, ["figure", "dae/figure1"])
    assert isinstance(untold.exception, UserError)
    assert "TOKENCREDIT_DATA=…, in which hh_rlhf/harmless_base_1800.jsonl.gz lies" in str(
        untold.exception
    )
    other = CliRunner().invoke(app, ["figure", "tlcr/figure8", "--texts", "x"])
    assert isinstance(other.exception, UserError) and "--texts = " in str(other.exception)
    none = CliRunner().invoke(app, ["figure", "dae/figure1", "--texts", "nothing.jsonl"])
    assert isinstance(none.exception, UserError) and "nothing.jsonl" in str(none.exception)


def test_a_page_shows_no_text_of_the_data(clone: Path) -> None:
    folder = clone / "experiments"
    (folder / "dae").mkdir()
    (folder / "dae" / "hh_harmless.md.j2").write_text('{{ figure("dae/figure1", "x.png") }}\n')
    write(folder / "dae" / "hh_harmless")
    (page,) = write_page("dae/hh_harmless", folder)
    assert "no figure: its texts are not kept here" in page.read_text()


def test_no_pairs_are_no_figure(clone: Path) -> None:
    found = entry()
    found.rows = 0
    with pytest.raises(UserError, match="rows = 0"):
        found.__post_init__()

"""Figures of texts whose tokens are coloured: from files alone, escaped, and refused line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers import token_sheets
from tokencredit.papers.kinds import find_any_figure
from tokencredit.papers.page import write_page
from tokencredit.papers.token_maps import TokenMap
from tokencredit.papers.token_sheets import WIDTH, laid_out, share, views, write_token_map

NASTY = " <b>$\\frac$</b>\x1b[31m\u202e \u4f60"
"""Read as a formula, it would be an error."""
TEXTS: list[dict[str, Any]] = [
    {"row": 3, "answer": "misspelling", "prompt": "It is", "text": " godo.", "marked": [1, 5]},
    {"row": 3, "answer": "written", "prompt": "It is", "text": " good."},
    {"row": 1, "answer": "written", "prompt": "A <i>", "text": NASTY},
]
FAULT = {"n": 7, "mean": -0.25, "low": -0.5, "high": 0.0, "p": 0.04}
TOKENS = """\
row,answer,position,start,end,reward
3,misspelling,0,0,5,-0.5
3,written,0,0,5,0.25
3,written,1,5,6,-1.5
1,written,0,0,4,0.5
"""


def entry() -> TokenMap:
    found = find_any_figure("tlcr/figure8")
    assert isinstance(found, TokenMap)
    return found


def write(folder: Path, tokens: str = TOKENS, texts: list[dict[str, Any]] = TEXTS) -> Path:
    place = folder / "heat_maps"
    place.mkdir(parents=True, exist_ok=True)
    (place / "tokens.csv").write_text(tokens)
    (place / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (place / "faults.json").write_text(json.dumps({"faults": {"misspelling": FAULT}}))
    return folder


def test_answers_come_by_row_and_fault_with_what_lies_between_their_tokens(tmp_path: Path) -> None:
    first, second, third = entry().coloured(write(tmp_path))
    assert [first.row, second.row, third.row] == [1, 3, 3]
    assert second.name == "as written" and "exchanged" in third.name
    pieces = [(text, token and token.value, marked) for text, token, marked in third.pieces()]
    assert pieces == [(" godo", -0.5, True), (".", None, False)]
    assert [text for text, _, _ in first.pieces()] == [NASTY[:4], NASTY[4:]]


def test_the_colour_is_the_number_or_its_part_of_the_answers_largest(tmp_path: Path) -> None:
    read = entry()
    assert [one.unit for one in read.coloured(write(tmp_path))] == [1, 1, 1]
    read.relative = True
    _, good, wrong = read.coloured(tmp_path)
    assert (good.unit, wrong.unit) == (1.5, 0.5)
    assert share(0.25, good.unit) == pytest.approx(1 / 6) and share(-0.5, wrong.unit) == -1
    assert share(-1.5, 1) == -1, "beyond the full colour there is none"
    colours, measured = read.remarks(tmp_path)
    assert "largest magnitude of each answer" in colours
    assert measured.endswith("a word exchanged -0.250 [-0.500, +0.000] (n = 7)")


def test_text_of_models_is_escaped_in_page_and_picture(tmp_path: Path) -> None:
    written, _ = write_token_map(entry(), write(tmp_path), tmp_path / "out", "f")
    assert [path.name for path in written] == ["f.png", "f.pdf", "f.html", "f.csv"]
    png, pdf, page = (path.read_bytes() for path in written[:3])
    assert png.startswith(b"\x89PNG") and pdf.startswith(b"%PDF")
    text = page.decode()
    assert "$\\frac$&lt;/b&gt;" in text and "A &lt;i&gt;" in text and "<b>" not in text
    assert "\x1b" not in text and "<script" not in text and "reward 2 D − 1" in text
    assert "\u202e" not in text and "&lt;U+202E&gt;" in text
    assert token_sheets._with_glyphs("a\u4f60") == "a□"
    again, _ = write_token_map(entry(), tmp_path, tmp_path / "again", "f")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_the_csv_has_every_number_and_no_text(tmp_path: Path) -> None:
    written, _ = write_token_map(entry(), write(tmp_path), tmp_path / "out", "f")
    with written[-1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["reward"]) for row in rows] == [0.5, 0.25, -1.5, -0.5]
    assert rows[-1]["end"] == "5" and "godo" not in written[-1].read_text()


def test_tokens_are_shaded_and_faults_are_underlined(tmp_path: Path) -> None:
    _, _, third = views(entry().coloured(write(tmp_path)))
    token, rest = third["tokens"]
    assert "rgba(213, 94, 0, 0.500)" in token["style"] and "underline" in token["style"]
    assert token["title"] == "token 0: -0.5000" and rest["style"] == rest["title"] == ""


def test_lines_of_the_picture_hold_every_letter_once(tmp_path: Path) -> None:
    long = " ".join(["word"] * 60) + "x" * 150
    texts = [{"row": 3, "answer": "written", "prompt": "It is", "text": f" {long}\nend"}]
    tokens = "row,answer,position,start,end,reward\n3,written,0,0,301,0.5\n"
    runs = laid_out(entry().coloured(write(tmp_path, tokens, texts))).runs
    assert all(run.column + len(run.text) <= WIDTH for run in runs)
    body = "".join(run.text for run in runs if 0 < run.line < runs[-1].line)
    assert body.replace(" ", "") == f"Itis{long}↵end".replace(" ", "")
    last = {run.line for run in runs[-5:]}
    assert len(last) == 1 and [run.text.strip() for run in runs[-5:]][::4] == ["−1", "+1"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": TOKENS.replace("3,written,1,5", "3,written,1,4")}, "line 4: the token begins"),
        ({"tokens": TOKENS.replace("-0.5", "nan")}, "line 2: characters 0 to 5, number nan"),
        ({"tokens": TOKENS.replace("3,written,0,0,5", "3,written,0,5,5")}, "line 3: characters"),
        ({"tokens": TOKENS.replace("1,written", "1,other")}, "answer = 'other': must be one of"),
        ({"tokens": TOKENS.replace("reward", "score")}, "'reward'; the columns are row, answer"),
        ({"tokens": TOKENS.splitlines()[0] + "\n"}, "holds no tokens"),
        ({"tokens": TOKENS.replace(",5,6,", ",5,7,")}, "row 3, written, is missing or not as long"),
        ({"texts": TEXTS[:2]}, "row 1, written, is missing or not as long"),
        ({"texts": [{"row": 3, "text": "x"}]}, "texts.jsonl: is damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, change: Mapping[str, Any], named: str
) -> None:
    with pytest.raises(UserError) as caught:
        entry().coloured(write(tmp_path, **change))
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_draws_or_says_what_makes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absent = CliRunner().invoke(app, ["figure", "tlcr/figure8"])
    assert isinstance(absent.exception, UserError)
    said = str(absent.exception)
    assert "no heat_maps/tokens.csv; `python experiments/tlcr/heat_maps.py" in said
    write(tmp_path / "experiments" / "tlcr" / "main")
    drawn = CliRunner().invoke(app, ["figure", "tlcr/figure8", "--out", "out"])
    assert drawn.exit_code == 0, drawn.output
    assert "wrote out/figure8.html" in drawn.output and "Note: each token has" in drawn.output
    for wrong, named in (
        (["--points", "3"], "--points = 3"),
        (["--runs", "a", "--runs", "b"], "name one folder"),
    ):
        answer = CliRunner().invoke(app, ["figure", "tlcr/figure8", *wrong])
        assert isinstance(answer.exception, UserError) and named in str(answer.exception)


def test_a_page_shows_it_or_says_what_makes_it(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    (folder / "tlcr").mkdir(parents=True)
    (folder / "tlcr" / "main.md.j2").write_text('{{ figure("tlcr/figure8", "x.png") }}\n')
    (page,) = write_page("tlcr/main", folder)
    assert "no figure: there is no heat_maps/tokens.csv; `python" in page.read_text()
    assert str(tmp_path) not in page.read_text()
    write(folder / "tlcr" / "main")
    page, image = write_page("tlcr/main", folder)
    assert image.read_bytes().startswith(b"\x89PNG")
    assert "](../../docs/images/x.png)" in page.read_text()

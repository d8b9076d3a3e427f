"""Tables and figures of one's own: of one's own runs, under one's own names, or why there are none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from paper_runs import write_run_folder
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.figure_data import as_text

MINE = """\
kind: {kind}
title: Two schemes
source: my notes
methods: {methods}
panels: [{panels}]
{rest}
"""
METHODS = '{abc: "Credit <b>", sparse: "_Plain_ $5"}'
PANEL = "{task: imdb, title: Long & short, points: 30}"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of three schemes that no experiment named, as `tokencredit train` leaves them."""
    for number, (scheme, seed) in enumerate(
        (s, k) for s in ("abc", "sparse", "rto") for k in (0, 1)
    ):
        rewards = [0.1 * step * (1 + (scheme == "abc")) + 0.5 * seed for step in range(40)]
        key = f"{number:016x}"
        folder = tmp_path / "runs" / scheme / key
        write_run_folder(folder, rewards, key=key, scheme=scheme, seed=seed, experiment=None)
    return tmp_path / "runs"


def made(
    runs: Path, *more: str, kind: str = "table", methods: str = METHODS, panels: str = PANEL
) -> Result:
    """What `tokencredit table mine.yaml --runs runs`, or `figure`, does."""
    path = runs.parent / "mine.yaml"
    command, rest = ("table", "baseline: sparse") if kind == "table" else ("figure", "")
    text = MINE.format(kind=kind, methods=methods, panels=panels, rest=rest)
    path.write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, [command, str(path), *more])


def said(runs: Path, *more: str, kind: str = "table", panels: str = PANEL) -> str:
    """The mistake that it ends with."""
    answer = made(runs, *more, kind=kind, panels=panels)
    assert isinstance(answer.exception, UserError), answer.output
    return str(answer.exception)


def test_a_table_of_ones_own_runs_has_ones_own_names_and_no_columns_of_a_paper(runs: Path) -> None:
    answer = made(runs, "--runs", str(runs), "--out", str(runs.parent / "out"))
    assert answer.exit_code == 0, answer.exception
    assert "| Long & short | Credit <b>" in answer.output and "| _Plain_ $5" in answer.output
    assert "minus _Plain_ $5, paired" in answer.output and "Source: my notes." in answer.output
    assert "paper" not in answer.output.lower() and "sparse" not in answer.output
    with (runs.parent / "out" / "mine.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert "paper_mean" not in rows[0] and [row["n"] for row in rows] == ["2", "2"]
    assert float(rows[0]["mean"]) == pytest.approx(0.2 * 14.5 + 0.25)


def test_latex_escapes_what_it_would_read_and_uses_booktabs(runs: Path) -> None:
    methods = '{abc: "[a] <b> {c}~^|", sparse: "x_1 & 50 % of $5 #1 \\\\ ρ ≤ β"}'
    lines = made(
        runs, "--runs", str(runs), "--format", "latex", methods=methods
    ).output.splitlines()
    assert lines[1] == r"\toprule" and r"\bottomrule" in lines and lines.count(r"\midrule") == 1
    own = r"[a] $<$b$>$ \{c\}\textasciitilde{}\textasciicircum{}$|$"
    assert lines[4].startswith(rf"Long \& short & {own} & 2 & 30 & ")
    other = r"x\_1 \& 50 \% of \$5 \#1 \textbackslash{} $\rho$ $\leq$ $\beta$"
    assert lines[5].startswith(f" & {other} & 2")
    assert "$<$ 0.0001" in lines[4], "p of equal differences"


def test_a_row_of_latex_does_not_begin_with_a_bracket(runs: Path) -> None:
    panels = "{task: imdb, title: '[x]', points: 30}, {task: imdb, title: '[y]', points: 20}"
    answer = made(runs, "--runs", str(runs), "--format", "latex", panels=panels)
    assert not [line for line in answer.output.splitlines() if line.startswith("[")]


@pytest.mark.parametrize("kind", ["table", "curves"])
@pytest.mark.parametrize(
    ("panel", "words"),
    [
        ("{task: tldr, points: 30}", "tldr: no runs: of 6, task tldr excludes 6 (imdb: 6)"),
        (
            "{task: [tldr, imdb], title: P, points: 30, lengths: [4, 8]}",
            "excludes 2 (rto: 2), then lengths 4–8 excludes 4 (8–16: 4)",
        ),
    ],
)
def test_no_runs_at_all_is_an_error_that_says_what_excluded_them(
    runs: Path, kind: str, panel: str, words: str
) -> None:
    assert words in said(runs, "--runs", str(runs), kind=kind, panels=panel)


def test_a_panel_or_a_method_without_runs_is_a_note(runs: Path, tmp_path: Path) -> None:
    panels = f"{PANEL}, {{task: imdb, title: Other β, points: 30, beta: 0.5}}"
    methods = "{abc: ABC, remax: ReMax}"
    words = [
        "Long & short, ReMax: no runs: of 6, method remax excludes 6 (abc: 2, rto: 2, sparse: 2).",
        "Other β: no runs: of 6, method abc or remax excludes 4 (rto: 2, sparse: 2), then beta 0.5",
    ]
    for kind in ("table", "curves"):
        out = ["--out", str(tmp_path / kind)]
        answer = made(runs, "--runs", str(runs), *out, kind=kind, panels=panels, methods=methods)
        assert answer.exit_code == 0 and all(text in answer.output for text in words), answer.output


def test_runs_that_are_too_short_are_counted_in_a_note(runs: Path) -> None:
    answer = made(runs, "--runs", str(runs), "--points", "50")
    assert "Credit <b>, not averaged: runs 0, 1: 40 of 50 points." in answer.output


def test_the_legend_of_a_figure_shows_names_as_they_are(runs: Path, tmp_path: Path) -> None:
    out = ["--runs", str(runs), "--out", str(tmp_path / "f")]
    answer = made(runs, *out, kind="curves", methods='{abc: "$5 or $6", sparse: "_Plain_"}')
    assert answer.exit_code == 0, answer.exception
    with (tmp_path / "f" / "mine.csv").open(encoding="utf-8") as file:
        names = {row["method"] for row in csv.DictReader(file)}
    assert names == {"$5 or $6", "_Plain_"}
    assert {as_text(name) for name in names} == {r"\$5 or \$6", " _Plain_"}


def test_a_file_of_ones_own_needs_its_runs_and_a_name_for_each_method(runs: Path) -> None:
    assert "is of your own; name its runs" in said(runs)
    answer = made(runs, "--runs", str(runs), methods="[abc, sparse]")
    assert "methods = ['abc', 'sparse']: must name each method" in str(answer.exception)


def test_runs_that_a_table_of_ones_own_does_not_show_need_not_belong_together(runs: Path) -> None:
    for number, beta in enumerate((0.1, 0.9)):
        identity = {"inputs": {"beta": beta}}
        write_run_folder(
            runs / "rto" / f"b{number}", [0.0] * 40, key=f"b{number}", scheme="rto",
            seed=7 + number, experiment=None, identity=identity,
        )  # fmt: skip
    answer = made(runs, "--runs", str(runs))
    assert answer.exit_code == 0 and "not shown: 4 runs of imdb, rto" in answer.output
    mixed = made(runs, "--runs", str(runs), methods="{sparse: S, rto: R}")
    assert "runs of imdb, rto" in str(mixed.exception) and "beta" in str(mixed.exception)

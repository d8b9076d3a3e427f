"""Figures of papers: the numbers of their own logs, every run, equal bytes for equal numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from typer.testing import CliRunner

from paper_runs import AUTHORS, lines, needs_authors, write_csv
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers import drawings
from tokencredit.papers.figure_data import Mark, Shape, figure_marks
from tokencredit.papers.figures import write_figure
from tokencredit.papers.kinds import find_figure
from tokencredit.papers.sources import read_sources

Draw = Callable[..., tuple[list[dict[str, str]], list[str]]]
RISING = [step / 10 for step in range(151)]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """A function that draws an entry from CSVs, and reads its CSV and notes."""

    def made(
        name: str, *paths: Path, points: int | None = None
    ) -> tuple[list[dict[str, str]], list[str]]:
        entry = find_figure(name)
        written, notes = write_figure(entry, read_sources(paths), tmp_path / "out", "f", points)
        assert [path.suffix for path in written] == [".png", ".pdf", ".csv"]
        assert written[0].read_bytes().startswith(b"\x89PNG") and written[
            1
        ].read_bytes().startswith(b"%PDF")
        with written[2].open(newline="") as file:
            return list(csv.DictReader(file)), notes

    return made


def at(rows: list[dict[str, str]], method: str, step: int) -> float:
    (row,) = [
        r
        for r in rows
        if r["method"].startswith(method) and r["what"] == "mean" and float(r["x"]) == step
    ]
    return float(row["y"])


@needs_authors
def test_papers_2_8_figure_3_from_the_authors_logs(draw: Draw) -> None:
    rows, notes = draw("abc/figure3", AUTHORS)
    expected = {
        "abc": "1.744 4.510 7.865 8.939 8.779 8.732 9.352 9.160 9.824 9.482 9.622",
        "sparse (RLHF)": "1.744 3.272 5.338 6.772 7.594 8.291 8.377 8.892 9.262 9.151 8.679",
        "uniform": "1.744 3.745 4.952 5.926 6.909 7.012 7.778 7.592 8.374 8.024 8.096",
        "abc_d (ABC-D)": "1.744 3.391 5.928 6.228 6.294 7.777 8.145 7.951 8.266 8.449 8.436",
        "abc_d2 (ABC-D2)": "1.744 3.803 6.256 6.499 7.548 7.731 8.670 8.450 9.031 8.452 8.793",
    }
    for method, numbers in expected.items():
        own = [row for row in rows if row["method"] == method and row["what"] == "mean"]
        curve = {float(row["x"]): float(row["y"]) for row in own}
        assert [round(curve[10 * k], 3) for k in range(11)] == pytest.approx(
            [float(x) for x in numbers.split()], abs=6e-4
        )
    spreads = [float(row["spread"]) for row in rows if row["method"] == "abc"]
    assert sum(spreads) / len(spreads) == pytest.approx(0.794, abs=5e-4)
    assert notes == []


@needs_authors
def test_papers_2_8_figure_6_is_smoothed_over_eight_steps(draw: Draw) -> None:
    rows, _ = draw("abc/figure6", AUTHORS)
    reward = [r for r in rows if r["panel"] == "Reward" and r["method"] == "abc"]
    assert float(reward[0]["y"]) == pytest.approx(6.206, abs=6e-4)
    loss = [r for r in rows if r["panel"] == "Value loss" and r["method"] == "uniform"]
    assert len(loss) == 201 and float(loss[-1]["y"]) < 0.15


@needs_authors
def test_figure_5_needs_a_kl_and_says_so(draw: Draw) -> None:
    with pytest.raises(UserError, match="the runs of abc_paper_runs have no kl column"):
        draw("abc/figure5", AUTHORS)


@needs_authors
def test_figure_5_notes_the_source_without_kl(draw: Draw, tmp_path: Path) -> None:
    own = write_csv(tmp_path / "own.csv", lines("abc", 1, RISING, kl=RISING))
    rows, notes = draw("abc/figure5", own, AUTHORS)
    assert {row["source"] for row in rows} == {"own"}
    assert (
        sum("has no kl column" in note and note.startswith("abc_paper_runs") for note in notes) == 5
    )


def test_papers_A10_figure_5_shows_the_runs_that_the_paper_dropped(
    draw: Draw, tmp_path: Path
) -> None:
    """Two runs of four run away to a KL of −332 and −353; the median path counts them too."""
    away = [[-332 * step / 150 for step in range(151)], [-353 * step / 150 for step in range(151)]]
    runs = [lines("sparse", k, RISING, kl=RISING) for k in (1, 2)]
    runs += [lines("sparse", 3 + k, [2.0] * 151, kl=kl) for k, kl in enumerate(away)]
    rows, _ = draw("abc/figure5", write_csv(tmp_path / "r.csv", *runs))
    shapes = {row["what"]: row["shape"] for row in rows}
    assert shapes == {
        "median": "line", "run 1": "end", "run 2": "end", "run 3": "diverged", "run 4": "diverged",
    }  # fmt: skip
    assert {row["n"] for row in rows if row["what"] == "median"} == {"4"}
    ends = {row["what"]: float(row["x"]) for row in rows if row["shape"] == "diverged"}
    assert ends["run 3"] == pytest.approx(-332 * 145.5 / 150)


def test_papers_A10_a_run_that_stopped_is_drawn_to_its_last_point(
    draw: Draw, tmp_path: Path
) -> None:
    path = write_csv(
        tmp_path / "r.csv",
        lines("abc", 1, [1.0] * 101),
        lines("abc", 2, [2.0] * 40, status="failed"),
        lines("abc", 3, [5.0] * 50),
    )
    rows, notes = draw("abc/figure3", path)
    stopped = [row for row in rows if row["shape"] == "stopped"]
    assert {row["what"]: int(row["x"]) for row in stopped} == {"run 2": 39, "run 3": 49}
    assert {float(row["y"]) for row in rows if row["what"] == "mean"} == {1.0}
    assert any("40 of 101 points (failed)" in note for note in notes)


def test_figure_4_shows_every_sparse_run_and_says_what_is_missing(
    draw: Draw, tmp_path: Path
) -> None:
    runs = [
        lines(method, run, [float(run)] * 101, task="generation_length", lengths=lengths)
        for method in ("sparse", "abc")
        for run in (1, 2)
        for lengths in ((20, 30), (90, 110))
    ]
    rows, notes = draw("abc/figure4", write_csv(tmp_path / "r.csv", *runs))
    assert {row["panel"] for row in rows} == {"20–30 tokens", "90–110 tokens"}
    assert {row["method"] for row in rows if row["shape"] == "run"} == {"sparse (RLHF)"}
    assert at([r for r in rows if r["panel"] == "20–30 tokens"], "abc", 7) == 1.5
    assert "r: no runs for 40–60 tokens, 140–160 tokens" in notes


def test_figure_7_by_hand(draw: Draw, tmp_path: Path) -> None:
    """Runs of 251 points at 1 and 3: mean 2, sd (ddof 0) 1."""
    runs = [
        lines("abc", run, [value] * 251, beta=beta)
        for beta in (0.0, 0.5)
        for run, value in ((1, 1.0 + beta), (2, 3.0 + beta))
    ]
    path = write_csv(
        tmp_path / "r.csv", *runs, lines("abc", 3, [9.0] * 30, beta=0.5, status="failed")
    )
    rows, notes = draw("abc/figure7", path)
    means = {
        row["x"]: (float(row["y"]), float(row["spread"])) for row in rows if row["what"] == "mean"
    }
    assert means == {"0.0": (2.0, 1.0), "0.5": (2.5, 1.0)}
    assert [row["shape"] for row in rows if row["what"] == "run 3"] == ["diverged"]
    assert any("run 3: 30 of 251 points (failed)" in note for note in notes)


def test_a_changed_run_is_another_figure_and_equal_runs_are_equal_bytes(tmp_path: Path) -> None:
    entry, files = find_figure("abc/figure3"), []
    for place, last in (("a", 1.0), ("b", 1.0), ("c", 1.5)):
        path = write_csv(tmp_path / place / "r.csv", lines("abc", 1, [*[1.0] * 100, last]))
        written, _ = write_figure(entry, read_sources([path]), tmp_path / place, "f")
        files.append([file.read_bytes() for file in written])
    assert files[0] == files[1]
    assert all(a != c for a, c in zip(files[0], files[2], strict=True))


def test_no_runs_and_too_short_runs_are_errors(draw: Draw, tmp_path: Path) -> None:
    other = write_csv(tmp_path / "o.csv", lines("abc", 1, [1.0], task="summarisation"))
    with pytest.raises(UserError, match="no runs: of 1, task positive_generation or"):
        draw("abc/figure3", other)


def test_marks_stand_for_every_run_that_was_given(tmp_path: Path) -> None:
    """Whatever the figure: a run is in a mean, is drawn by itself, or is named in a note."""
    path = write_csv(
        tmp_path / "r.csv",
        *(
            lines("abc", run, RISING[:n], kl=RISING[:n])
            for run, n in enumerate((151, 151, 20, 151))
        ),
    )
    for name in ("abc/figure3", "abc/figure5"):
        marks, notes = figure_marks(find_figure(name), read_sources([path]))
        averaged = max(mark.n for mark in marks if mark.shape is Shape.line)
        alone = [mark for mark in marks if mark.shape in {Shape.stopped, Shape.diverged}]
        assert averaged + len(alone) == 4 and len(notes) == 1
        assert isinstance(alone[0], Mark)


def test_the_command_writes_where_asked(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", lines("abc", 1, [1.0] * 101))
    out = tmp_path / "new" / "place"
    answer = CliRunner().invoke(
        app, ["figure", "abc/figure3", "--runs", str(path), "--out", str(out)]
    )
    assert answer.exit_code == 0, answer.output
    assert sorted(p.name for p in out.iterdir()) == ["figure3.csv", "figure3.pdf", "figure3.png"]


def test_without_committed_cells_the_command_asks_for_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["figure", "abc/figure3"])
    assert isinstance(answer.exception, UserError) and "--runs" in str(answer.exception)


def test_a_legend_of_long_names_stays_inside_its_figure() -> None:
    entry = find_figure("abc/figure5")
    marks = [
        Mark(
            "",
            "",
            method,
            f"{method} with a long name",
            Shape.diverged,
            "run",
            (1.0,),
            (1.0,),
            (),
            1,
        )
        for method in entry.methods
    ]
    figure = Figure(figsize=(7.6, 4.3), dpi=160)
    FigureCanvasAgg(figure)
    drawings._legend(figure, entry, marks)
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    assert len(legend.get_texts()) > len(entry.methods)

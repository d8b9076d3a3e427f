"""Pages of experiments: every number from the committed cells, and the committed page is that page."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from paper_runs import ROOT, lines, write_csv
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.evaluation.opinions import read_opinions
from tokencredit.papers.page import pages, write_page

PAGES = pages(ROOT / "experiments")


def copied(name: str, place: Path) -> Path:
    """The template and the cells of a page, elsewhere."""
    folder = place / "experiments"
    template = folder / f"{name}.md.j2"
    template.parent.mkdir(parents=True)
    shutil.copy(ROOT / "experiments" / f"{name}.md.j2", template)
    cells = ROOT / "experiments" / name
    if cells.is_dir():
        shutil.copytree(cells, folder / name)
    return folder


def test_there_are_pages() -> None:
    assert {"abc/positive_generation", "abc/generation_length", "abc/beta_sweep"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_made_of_the_committed_cells(name: str, tmp_path: Path) -> None:
    """Its text to the byte; its pictures to the pixel where the libraries are the same, else nearly."""
    folder = copied(name, tmp_path)
    page, *images = write_page(name, folder, read_opinions)
    kept = (ROOT / "experiments" / f"{name}.md").read_bytes()
    assert page.read_bytes() == kept, f"run `tokencredit page {name}`"
    for image in images:
        drawn = matplotlib.image.imread(image)
        committed = matplotlib.image.imread(ROOT / image.relative_to(tmp_path))
        assert drawn.shape == committed.shape
        assert np.abs(drawn - committed).mean() < 0.02


def test_a_changed_cell_is_another_page(tmp_path: Path) -> None:
    name = "abc/positive_generation"
    folder = copied(name, tmp_path)
    (before, *_), text = write_page(name, folder), ""
    text = before.read_text()
    cell = next((folder / name).glob("*.csv"))
    rows = cell.read_text().splitlines()
    rows[1] = rows[1].replace(rows[1].split(",")[7], "50.0")
    cell.write_text("\n".join(rows) + "\n")
    (after, *_) = write_page(name, folder)
    assert after.read_text() != text


def test_a_note_stands_once_on_a_page(tmp_path: Path) -> None:
    """Two figures of the same cells, and the table of fairness, have the same to say of them."""
    folder = copied("rto/win_rates", tmp_path)
    (folder / "rto" / "win_rates.md.j2").write_text(
        '{{ figure("rto/figure3", "a.png") }}\n\n{{ figure("rto/frontier", "b.png") }}\n\n'
        "{{ fairness() }}\n"
    )
    (page, *_) = write_page("rto/win_rates", folder)
    notes = [line for line in page.read_text().splitlines() if line.startswith("*Note: ")]
    assert notes and len(notes) == len({note.replace("committed cells: ", "") for note in notes})


TEMPLATE = """\
{{ cells() }}
{{ table("abc/table_beta") }}
{{ figure("abc/figure7", "x.png") }}
{{ claims("abc") }}
{{ held_out() }}
"""


def test_a_page_by_hand_and_one_without_cells(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    (folder / "abc").mkdir(parents=True)
    (folder / "abc" / "beta_sweep.md.j2").write_text(TEMPLATE)
    (empty,) = write_page("abc/beta_sweep", folder)
    assert "No cell is committed yet." in empty.read_text() and "no runs" in empty.read_text()
    runs = [
        lines("abc", run, [run + beta] * 251, beta=beta, task="beta_sweep")
        for run in (1, 2)
        for beta in (0.0, 0.5, 1.0)
    ]
    stopped = lines("abc", 3, [9.0] * 4, beta=0.5, task="beta_sweep", status="failed")
    write_csv(folder / "abc" / "beta_sweep" / "cells.csv", *runs, stopped)
    page, image = write_page("abc/beta_sweep", folder)
    text = page.read_text()
    assert "7 cells: 6 complete, 1 failed." in text
    assert "2.0000 ± 0.7071" in text, "1.5 and 2.5 at β = 0.5"
    assert image == tmp_path / "docs" / "images" / "x.png" and image.is_file()
    assert "](../../docs/images/x.png)" in text
    assert "slope +1.000 [+1.000, +1.000] over 3 values of β" in text
    assert "4 of 251 points (failed)" in text
    assert "sooner" not in text and "half of the sparse" not in text, "claims about other tasks"


def test_the_command_names_what_it_wrote_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied("abc/beta_sweep", tmp_path)
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["page", "abc/beta_sweep"])
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("wrote experiments/abc/beta_sweep.md")
    wrong = CliRunner().invoke(app, ["page", "abc/nothing"])
    assert isinstance(wrong.exception, UserError) and "abc/beta_sweep" in str(wrong.exception)

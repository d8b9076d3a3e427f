"""What a page says by the protocol, of cells that hold everything, of old ones, and of none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paper_runs import write_whole_cell
from tokencredit.errors import UserError
from tokencredit.papers.figure_data import Shape, figure_marks
from tokencredit.papers.figure_kinds import OnTheWay
from tokencredit.papers.figures import pictures
from tokencredit.papers.kinds import find_figure
from tokencredit.papers.page import write_page
from tokencredit.papers.scores import write_scores
from tokencredit.papers.sources import read_sources

NAME = "abc/positive_generation"
TEMPLATE = """\
{{ conduct() }}
{{ readings("sparse", primary="abc") }}
{{ figure("abc/gold_frontier", "gold.png") }}
{{ fairness("sparse") }}
{{ over_optimisation() }}
{{ figure("abc/on_the_way", "way.png") }}
{{ seeds_and_prompts() }}
"""
METHODS = ("abc", "sparse", "uniform", "shuffled", "recency", "position", "abc_d", "abc_d2")


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    (folder / "abc").mkdir(parents=True)
    (folder / f"{NAME}.md.j2").write_text(TEMPLATE)
    return folder


def cells(experiments: Path, methods: tuple[str, ...] = METHODS[:3], **more: Any) -> Path:
    """Three seeds of each method: 105 steps; the gold score falls at the end, the paid one rises."""
    folder = experiments / NAME
    for place, method in enumerate(methods):
        for seed in range(3):
            kl = [0.3 * k * (1 + 0.2 * place) for k in range(22)]
            gold = [0.1 * min(k, 35 - k) + 0.01 * seed for k in range(22)]
            paid = [0.2 * k + 0.01 * place for k in range(22)]
            write_whole_cell(folder, method, seed, kl=kl, gold=gold, paid=paid, **more)
    return folder


def test_a_page_of_cells_that_hold_everything(experiments: Path) -> None:
    folder = cells(experiments)
    lines = [
        (name, seed, prompt, float((seed + prompt) % 3 > place))
        for place, name in enumerate(("abc", "sparse"))
        for seed in (0, 1)
        for prompt in range(4)
    ]
    write_scores(lines, folder / "scores.csv")
    page, *images = write_page(NAME, experiments)
    text = page.read_text()
    assert [image.name for image in images] == ["gold.png", "way.png"]
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    assert "| method  | β   | tokens | n   | gold score" in text
    assert "**Primary is the reading at equal KL.**" in text
    assert "for abc, the comparison declared before the runs" in text
    shown = text.splitlines()
    place = next(n for n, line in enumerate(shown) if line.startswith("| seeds "))
    assert [x.strip() for x in shown[place - 2].split("|")[2:-1]] == ["sparse", "abc", "uniform"]
    assert "sparse (3 runs): the gold score is highest at step 85 of 105" in text
    assert "while the paid score still rose (+0.800" in text
    assert "| abc against sparse | 2 × 4 |" in text


def test_a_page_of_cells_of_before(experiments: Path) -> None:
    """What they hold is shown; the rest are dashes, and what cannot be drawn is said."""
    cells(experiments, on_the_way=False)
    (page,) = write_page(NAME, experiments)
    text = page.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| abc ")]
    summary = [cell.strip() for cell in rows[1].split("|")[1:-1]]
    assert summary[4].startswith("+0.000") and summary[5] == "–", "equal steps, but no equal KL"
    assert text.count("no figure: no cell holds evaluations on the way (evaluation.every).*") == 2
    assert "*No cell holds evaluations on the way (evaluation.every).*" in text
    assert "*No comparison of several seeds.*" in text


def test_old_cells_of_one_method_beside_new_ones_of_another(experiments: Path) -> None:
    cells(experiments, ("abc",))
    cells(experiments, ("sparse",), on_the_way=False)
    page, *images = write_page(NAME, experiments)
    text = page.read_text()
    assert len(images) == 2 and "fewer than two readings" not in text
    assert "abc (3 runs): the gold score is highest" in text
    assert "sparse (3 runs)" not in text


def test_a_page_without_cells(experiments: Path) -> None:
    (page,) = write_page(NAME, experiments)
    assert page.read_text().count("*No cells yet.*") == 4


def test_eight_methods_are_told_apart(experiments: Path) -> None:
    """Two panels of means with intervals; at step 5 all seeds of ABC have paid scores of 0.2."""
    source = read_sources([cells(experiments, METHODS)])
    entry = find_figure("abc/on_the_way").of_task("positive_generation")
    marks, _ = figure_marks(entry, source)
    assert {mark.shape for mark in marks} == {Shape.line} and len(marks) == 16
    paid = next(mark for mark in marks if (mark.panel, mark.method) == ("Paid score", "abc"))
    assert paid.x[:2] == [0, 5] and paid.x[-1] == 105 and paid.n == 3
    assert paid.y[1] == pytest.approx(0.2) and paid.spread[1] == pytest.approx(0, abs=1e-12)
    gold = next(mark for mark in marks if (mark.panel, mark.method) == ("Gold score", "abc"))
    assert gold.spread[1] == pytest.approx(4.302653 * 0.01 / 3**0.5), "seeds are 0.01 apart"
    assert pictures(entry, marks)[0].startswith(b"\x89PNG")
    frontier, _ = figure_marks(
        find_figure("abc/gold_frontier").of_task("positive_generation"), source
    )
    assert [mark.method for mark in frontier if mark.shape is Shape.line] == list(
        find_figure("abc/gold_frontier").methods
    )


def test_figures_that_cannot_be_drawn_say_why(experiments: Path) -> None:
    sources = read_sources([cells(experiments, on_the_way=False)])
    for name in ("abc/on_the_way", "abc/gold_frontier"):
        with pytest.raises(UserError, match="no cell holds evaluations on the way"):
            figure_marks(find_figure(name).of_task("positive_generation"), sources)
    panel = {"task": "t", "points": 5, "column": "mean_reward"}
    tree = {"title": "t", "source": "s", "methods": {"abc": "abc"}, "panels": [panel]}
    with pytest.raises(UserError, match=r"column = 'mean_reward'.*score, oracle, kl"):
        OnTheWay.read(tree, experiments)

"""Scores at equal KL: by hand, with runs that do not come there, and as a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paper_runs import lines, write_cell_json, write_csv
from tokencredit.papers.figure_data import Shape, figure_marks
from tokencredit.papers.figures import pictures
from tokencredit.papers.frontier import at_levels, equal_kl_tables, frontier, reach
from tokencredit.papers.kinds import find_figure
from tokencredit.papers.sources import Source, read_sources

STEPS = 101


def rising(method: str, run: int, slope: float, top: float, **more: object) -> list[str]:
    """KL rises evenly to `top`; the score is `slope` times it."""
    kl = [top * step / (STEPS - 1) for step in range(STEPS)]
    return lines(method, run, [slope * x for x in kl], kl=kl, **more)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Three runs of each; ABC's run 2 stays at 4 nats."""
    path = write_csv(
        tmp_path / "r.csv",
        *(rising("abc", run, 3.0 + run, 4.0 if run == 2 else 20.0) for run in range(3)),
        *(rising("sparse", run, 2.0, 20.0) for run in range(3)),
        *(rising("uniform", run, 1.0, 20.0, lengths=(20, 30)) for run in range(3)),
    )
    return read_sources([path])[0]


def test_the_score_where_a_run_first_comes_to_a_level(source: Source) -> None:
    """Score and KL are in proportion, so their running means are: 3, 4, 5 times the level."""
    runs = source.of("positive_generation", "abc")
    found = at_levels(next(iter(runs.values())), [2.0, 5.0, 19.5])
    assert found[0] == {0: pytest.approx(6), 1: pytest.approx(8), 2: pytest.approx(10)}
    assert found[1] == {0: pytest.approx(15), 1: pytest.approx(20)}
    assert found[2] == {}, "the last running mean is 20 − 0.9"


def test_the_tables_by_hand(source: Source) -> None:
    """Differences 2, 4, 6 at 2 nats: 4 ± 4.303 · 2/√3; 5 and 10 at 5 nats: 7.5 ± 12.706 · 2.5."""
    text = equal_kl_tables(source, "positive_generation", "sparse")
    cells = [
        [x.strip() for x in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    scores = {row[0]: row[4:] for row in cells[:5]}
    apart = {row[0]: row[3:] for row in cells[5:]}
    assert scores["abc"][:2] == ["8.000 [3.032, 12.968]", "17.500 [-14.266, 49.266] (2)"]
    assert scores["sparse"] == [
        "4.000 [4.000, 4.000]",
        *(f"{x}.000 [{x}.000, {x}.000]" for x in (10, 20, 30)),
    ]
    assert apart["abc"][:2] == ["+4.000 [-0.968, +8.968] (3)", "+7.500 [-24.266, +39.266] (2)"]
    assert "sparse" not in apart, "nothing minus itself"
    assert "uniform" not in apart, "there is no baseline of its lengths"


def test_one_run_is_no_pair_and_none_is_a_dash(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", rising("abc", 0, 3.0, 6.0), rising("sparse", 0, 2.0, 6.0))
    text = equal_kl_tables(read_sources([path])[0], "positive_generation", "sparse")
    rows = [line for line in text.splitlines() if line.startswith("| abc")]
    assert [x.strip() for x in rows[0].split("|")[5:-1]] == ["6.000", "15.000", "–", "–"]
    assert [x.strip() for x in rows[1].split("|")[4:-1]] == ["–"] * 4


def test_the_frontier_ends_where_half_of_the_runs_have_come(source: Source) -> None:
    runs = next(iter(source.of("positive_generation", "abc").values()))
    assert [reach(run) for run in runs] == pytest.approx([19.1, 19.1, 3.82])
    levels, there = frontier(runs)
    assert levels[0] == 0 and levels[-1] == pytest.approx(19.1)
    assert {x.n for level, x in zip(levels, there, strict=True) if level > 4} == {2}
    assert {x.n for level, x in zip(levels, there, strict=True) if level < 3.8} == {3}
    assert frontier(runs[:1]) == ([], []), "one run has no band"
    assert there[-1].mean == pytest.approx(3.5 * 19.1)


def test_a_run_without_kl_has_no_place(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", *(lines("abc", run, [1.0] * STEPS) for run in range(2)))
    runs = next(iter(read_sources([path])[0].of("positive_generation").values()))
    assert at_levels(runs, [0.0, 2.0]) == [{}, {}] and frontier(runs) == ([], [])
    assert reach(runs[0]) == 0


def test_the_figure_has_curves_points_of_cells_and_the_other_models(tmp_path: Path) -> None:
    """Held-out measures come from what lies beside each cell; DPO is drawn where it was measured."""
    for method, slope in (("abc", 3.0), ("sparse", 2.0)):
        for run in range(2):
            path = write_csv(tmp_path / f"{method}{run}.csv", rising(method, run, slope, 20.0))
            write_cell_json(path, {}, key=f"{method}{run}")
            record = json.loads(path.with_suffix(".json").read_text())
            record["evaluation"] = {
                name: {"mean": value + run}
                for name, value in {
                    "policy/kl": 10 * slope, "policy/oracle": 1.0, "sft/score": -1.0,
                    "sft/oracle": -2.0, "dpo/kl": 4.0, "dpo/score": 5.0, "dpo/oracle": 6.0,
                }.items()
            }  # fmt: skip
            path.with_suffix(".json").write_text(json.dumps(record))
    entry = find_figure("abc/frontier")
    marks, _ = figure_marks(entry, read_sources([tmp_path]))
    by_shape = {shape: [m for m in marks if m.shape is shape] for shape in Shape}
    assert [m.method for m in by_shape[Shape.line]] == ["abc", "sparse"]
    assert all(m.n == 2 and len(m.spread) == len(m.x) for m in by_shape[Shape.line])
    assert [(m.method, *m.x, *m.y) for m in by_shape[Shape.dot]] == [
        ("abc", 30.0, 1.0), ("abc", 31.0, 2.0), ("sparse", 20.0, 1.0), ("sparse", 21.0, 2.0),
    ]  # fmt: skip
    assert [(m.panel, m.method, *m.x, *m.y) for m in by_shape[Shape.model]] == [
        ("Paid score in training", "sft", 0.0, -0.5),
        ("Paid score in training", "dpo", 4.5, 5.5),
        ("Held-out prompts", "sft", 0.0, -1.5),
        ("Held-out prompts", "dpo", 4.5, 6.5),
    ]
    png, pdf = pictures(entry, marks)
    assert png.startswith(b"\x89PNG") and pdf.startswith(b"%PDF")

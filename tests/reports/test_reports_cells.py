"""The committed cells of an experiment: written, read, and turned into tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.reports.cells import COLUMNS, figure, paired_table, read_cells, table, write_cell

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "experiments" / "abc" / "positive_generation.md"


def finished(place: Path, method: str, seed: int, scores: list[float]) -> Path:
    """A run folder with this curve; the KL is twice the score."""
    run = place / f"{method}{seed}"
    run.mkdir()
    rows = [
        {"step": step, "score/mean": score, "kl/k1": 2 * score, "value/loss": 0.5}
        for step, score in enumerate(scores)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text(
        "reward_scheme: {beta: 0.8}\nrollout: {min_new_tokens: 8, max_new_tokens: 16}\n"
    )
    measure = {"mean": scores[-1], "se": 0.1, "n": 4}
    evaluation = {f"policy/{name}": measure for name in ("score", "oracle", "distinct_2", "kl")}
    results = {
        "config_hash": f"{method}{seed}",
        "scheme": method,
        "seeds": {"seed": seed, "stage_seed": 0},
        "status": "complete",
        "evaluation": evaluation,
    }
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_cells_by_hand(tmp_path: Path) -> None:
    """Two seeds each: means 2 and 4 give 3 ± t(1) · 1, paired differences 1 and 3 give 2."""
    for method, seed, scores in (("abc", 0, [1.0, 3.0]), ("abc", 1, [3.0, 5.0])):
        write_cell(finished(tmp_path, method, seed, scores), tmp_path / "cells", "task")
    for seed in (0, 1):
        write_cell(finished(tmp_path, "sparse", seed, [0.5, 1.5]), tmp_path / "cells", "task")
    cells = read_cells(tmp_path / "cells")
    assert [(cell.method, cell.seed) for cell in cells] == [
        ("abc", 0),
        ("abc", 1),
        ("sparse", 0),
        ("sparse", 1),
    ]
    lines = table(cells).splitlines()
    assert lines[2].startswith("| abc | 2 | 3.00 [-9.71, 15.71] |")  # t(1, 0.975) = 12.706
    assert lines[3].startswith("| sparse | 2 | 1.00 [1.00, 1.00] |")
    paired = paired_table(cells, "sparse").splitlines()
    assert paired[2] == "| abc | 2 | 2.00 [-10.71, 14.71] | 2.00 | 0.295 |"
    text = (tmp_path / "cells" / "abc0.csv").read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert text.splitlines()[2] == "task,abc,0.8,8,16,0,1,3.0,6.0,0.5,0,complete"
    assert figure(cells, tmp_path / "figure.png").stat().st_size > 1000


def test_an_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    """No cells, no table."""
    with pytest.raises(UserError, match="holds no cells"):
        read_cells(tmp_path)


def test_the_committed_page_says_what_the_committed_cells_say() -> None:
    """Tables of the page are those made from the CSV files beside it; every cell is there."""
    cells = read_cells(PAGE.with_suffix(""))
    assert len(cells) == 9
    page = PAGE.read_text(encoding="utf-8")
    assert table(cells) in page
    assert paired_table(cells, "sparse") in page


def test_the_committed_figure_is_drawn_from_the_committed_cells(tmp_path: Path) -> None:
    """The same picture, to the pixel where the libraries are the same, else nearly."""
    import matplotlib.image
    import numpy as np

    drawn = matplotlib.image.imread(figure(read_cells(PAGE.with_suffix("")), tmp_path / "f.png"))
    kept = matplotlib.image.imread(ROOT / "docs" / "images" / "positive_generation.png")
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.02

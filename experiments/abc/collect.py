"""Commit the finished cells of a sweep, and make its table and figure again.

    python experiments/abc/collect.py experiments/abc/positive_generation RUN_FOLDER…

Without run folders only table and figure are made, from the CSV files that are there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokencredit.reports.cells import figure, paired_table, read_cells, table, write_cell

ROOT = Path(__file__).parents[2]


def main(folder: Path, runs: list[Path]) -> None:
    """Write cells, then print what they say."""
    for run in runs:
        write_cell(run, folder, folder.name)
    cells = read_cells(folder)
    print(table(cells), end="\n\n")
    print(paired_table(cells, "sparse"))
    figure(cells, ROOT / "docs" / "images" / f"{folder.name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]])

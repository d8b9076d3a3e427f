"""What the parts of the advantage model are worth: rank of its head, centring, number of pairs.

    python experiments/dae/ablations.py --out experiments/dae/ablations

The stage `advantage` of experiment=dae/imdb is trained anew with one setting changed at a time, for
each of some seeds on the same pairs, and measured on the same held-out pairs. All stages before it
are those of the experiment, and are reused from the store. FOLDER gets ablations.csv, a line for
each variant and seed, from which the table in README.md is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import load_file

from tokencredit.composing.chosen import chosen
from tokencredit.models.advantage import HEAD as HEAD_FILE
from tokencredit.pipeline.pipeline import execute
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import with_interval
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import read_json, write_text
from tokencredit.store.sheets import csv_text

BASE: Final = ("experiment=dae/imdb", "scale=cpu", "algorithm=judge", "judge=advantage")
UNPAID: Final = ("reward_scheme=sparse", "tracking=disabled")
"""It fits any judge. What a stage leaves is read here; `execute` commits no cell of it."""
WIDTH: Final = 192
"""Of the shipped model's hidden states: with a head of that rank f can be any linear map to ids."""
VARIANTS: Final = {
    "rank 16": (),
    "rank 4": ("judge.rank=4",),
    "rank 64": ("judge.rank=64",),
    "full": (f"judge.rank={WIDTH}",),
    "not centred": ("judge.centred=false",),
    "half of the pairs": ("dpo.prompts=1500",),
    "a quarter": ("dpo.prompts=750",),
    "an eighth": ("dpo.prompts=375",),
}
NUMBERS: Final = ("mse", "train_mse", "sign_accuracy", "antisymmetry_gap", "centring_residual")
HEAD: Final = ("variant", "seed", "pairs", "held_out", *NUMBERS, "head_parameters", "seconds")


def measured(name: str, seed: int, more: Sequence[str]) -> list[object]:
    """A line of the file: the stage of one variant and seed, trained if it is not there."""
    config = chosen([*BASE, *UNPAID, f"seed={seed}", *VARIANTS[name], *more]).config
    stage = execute(config).last
    figures: dict[str, Any] = dict(stage.figures())
    counts = figures["pairs"], figures["held_out"]
    folder = stage.context.store.folder(stage)
    seconds = read_json(folder / MANIFEST, seconds=float)["seconds"]
    numbers = (figures[column] for column in NUMBERS)
    return [name, seed, *counts, *numbers, head_parameters(folder), seconds]


def head_parameters(folder: Path) -> int:
    """Trained numbers of the head alone; the adapters are those of every variant."""
    return sum(weights.size for weights in load_file(folder / HEAD_FILE).values())


def table(rows: Sequence[Sequence[object]]) -> str:
    """Means over the seeds with their 95 % intervals, as Markdown."""
    shown = ("mse", "train_mse", "sign_accuracy", "seconds")
    head = "| variant | pairs | numbers of the head | squared error | in training | winners named"
    lines = [f"{head} | seconds |", "|---|---|---|---|---|---|---|"]
    for name in VARIANTS:
        own = [dict[str, Any](zip(HEAD, row, strict=True)) for row in rows if row[0] == name]
        pairs = "–".join(sorted({str(row["pairs"]) for row in own}, key=int))
        size = f"{own[0]['head_parameters']:,}"
        cells = [with_interval(mean_ci([row[column] for row in own])) for column in shown]
        lines.append(f"| {' | '.join([name, pairs, size, *cells])} |")
    return "\n".join(lines)


def main() -> int:
    """Train what is missing, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of whole recipes")
    parser.add_argument("--out", type=Path, required=True, help="folder for ablations.csv")
    parser.add_argument("overrides", nargs="*", help="as for `tokencredit train`, e.g. store=…")
    given = parser.parse_args()
    rows = [
        measured(name, seed, given.overrides) for seed in range(given.seeds) for name in VARIANTS
    ]
    write_text(given.out / "ablations.csv", csv_text([HEAD, *rows]))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

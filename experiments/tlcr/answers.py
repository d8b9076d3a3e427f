"""A few held-out answers of each method's run, to be committed beside the page.

    python experiments/tlcr/answers.py runs/tlcr/main --out experiments/tlcr/main
    python experiments/tlcr/answers.py judged/answers.jsonl --out experiments/tlcr/main

The answers are those that the runs gave after training, and those of the SFT model that they
began with. All are of one seed, the first at which the most methods have runs; the prompts are
chosen by a hash of their rows, and texts cut, as in the table that reads them
(`tokencredit table tlcr/table2`). SFT, DPO, and FIGA alone leave models and no runs: the second
form takes what `tokencredit judge compare` has had runs and models answer, the first of each name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokencredit.errors import UserError
from tokencredit.evaluation.compare.players import Run, evaluated_runs
from tokencredit.papers.answers import ANSWERS, MOST, chosen_rows, read_answers, shortened
from tokencredit.store.files import write_rows
from tokencredit.store.run_folder import RunFolder

SFT: Final = "sft"
Said = dict[str, dict[int, dict[str, Any]]]
"""By method, then by the prompt's row: the line of that answer."""


def of_one_seed(runs: Sequence[Run]) -> list[Run]:
    """The runs of the first seed that has the most methods."""
    seeds = sorted({run.config.seed for run in runs})
    own = {seed: [run for run in runs if run.config.seed == seed] for seed in seeds}
    return max(own.values(), key=lambda some: len({run.scheme for run in some}))


def said(method: str, rows: Sequence[dict[str, Any]], model: str, seed: int) -> Said:
    """What a model answered in a run's evaluation."""
    lines = {
        int(row["row"]): {
            "generator": method,
            "seed": seed,
            "row": int(row["row"]),
            "instruction": shortened(str(row["prompt"])),
            "output": shortened(str(row[f"{model}/response"])),
        }
        for row in rows
    }
    return {method: lines}


def answers_of(runs: Sequence[Run]) -> Said:
    """The answers of every method, and of the SFT model if it is none of them."""
    found: Said = {}
    some = of_one_seed(runs)
    for run in some:
        if run.scheme in found:
            raise UserError(f"{run.path}: there is another run of {run.scheme}; name one of them")
        rows = RunFolder(run.path).evaluation
        found |= said(run.scheme, rows, "policy", run.config.seed)
    if SFT not in found:
        found |= said(SFT, RunFolder(some[0].path).evaluation, SFT, some[0].config.seed)
    return found


def compared(path: Path) -> Said:
    """The answers in a file of `judge compare`."""
    found: Said = {}
    for answer in read_answers(path):
        own = found.setdefault(answer.method, {})
        line = {"generator": answer.method, "row": answer.row, "instruction": answer.prompt}
        own.setdefault(answer.row, {**line, "output": answer.text})
    return found


def main() -> int:
    """Choose, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", type=Path, nargs="+", help="runs, or one answers.jsonl")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {ANSWERS}")
    given = parser.parse_args()
    (first, *others) = given.places
    alone = first.is_file() and not others
    found = compared(first) if alone else answers_of(evaluated_runs(given.places))
    rows = chosen_rows(found, MOST)
    if not rows:
        raise UserError(f"{', '.join(found)}: have no prompt in common")
    write_rows(given.out / ANSWERS, [own[row] for row in rows for own in found.values()])
    print(f"wrote {given.out / ANSWERS}: {len(rows)} prompts, {', '.join(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

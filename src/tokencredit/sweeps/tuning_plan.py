"""What `tokencredit tune --plan` prints: the budget of each method, and the hours that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from tokencredit.console import aligned
from tokencredit.papers.grids import points
from tokencredit.papers.pilot_files import read_pilots
from tokencredit.papers.pilot_tables import terms_text
from tokencredit.papers.pilots import FINALISTS, Pilot, Terms, trials
from tokencredit.store.files import read_json, reading
from tokencredit.store.run_folder import COMPLETE
from tokencredit.sweeps.tuning import Comparison

HOUR: Final = 3600
HEAD: Final = ("method", "points", "least runs", "steps", "runs done", "hours left")


def plan_text(comparison: Comparison) -> str:
    """Points, runs, RL steps, and hours of every method; where the hours are from; the grids.

    Nothing is computed: rows of the file count as done where their run is still asked for.
    """
    terms, rows = comparison.terms, read_pilots(comparison.rows)
    pace, source = seconds_a_step(comparison, rows)
    table: list[Sequence[str]] = [HEAD]
    total = 0.0
    for method, grid in terms.grids.items():
        steps, done, left = _progress(terms, rows, method)
        hours = left * pace[method] / HOUR if method in pace else None
        total += hours or 0.0
        runs = len(points(grid)) + FINALISTS * len(terms.seeds)
        shown = "–" if hours is None else f"{hours:.1f}"
        table.append((method, str(len(points(grid))), str(runs), str(steps), str(done), shown))
    leaders = [(m, f"takes the point of {leader}") for m, leader in terms.follows.items()]
    plain = [(method, "not tuned") for method in comparison.untuned]
    lines = [
        *aligned(table),
        *(f"{method}  {what}" for method, what in [*leaders, *plain]),
        *terms_text(terms),
        *(f"{method}: {_grid(terms, method)}" for method in terms.grids),
        f"{total:.1f} hours left, one run at a time: {source}" if pace else source,
    ]
    return "\n".join(lines)


def _grid(terms: Terms, method: str) -> str:
    return ", ".join(
        f"{key} in [{', '.join(f'{value:g}' for value in values)}]"
        for key, values in terms.grids[method].items()
    )


def _progress(terms: Terms, rows: Sequence[Pilot], method: str) -> tuple[int, int, int]:
    """RL steps of a method's whole tuning as far as it is known, its runs done, its steps left."""
    known = trials(rows, terms)
    own = [trial for trial in known if trial.method == method]
    there = {row.trial for row in rows}
    first = [trial for trial in own if trial.round == 1]
    again = terms.steps - terms.first_steps  # the first seed's run is there as far as that
    ends = sum(trial.round == 2 and trial.seed == terms.seeds[0] for trial in own)
    others = FINALISTS * (len(terms.seeds) - 1) * terms.steps
    second = max(FINALISTS, ends) * again + others
    spent = sum(_anew(trial.seed, trial.round, terms) for trial in own if trial in there)
    steps = len(first) * terms.first_steps + second
    return steps, sum(trial in there for trial in own), steps - spent


def _anew(seed: int, number: int, terms: Terms) -> int:
    """Steps that a run computes itself."""
    if number == 1:
        return terms.first_steps
    return terms.steps - (terms.first_steps if seed == terms.seeds[0] else 0)


def seconds_a_step(
    comparison: Comparison, rows: Sequence[Pilot]
) -> tuple[Mapping[str, float], str]:
    """The wall time of an RL step of each method, as far as something says it, and what does.

    Of pilot runs that are there, else of the experiment's committed cells of this scale; a method
    without any has the mean of the others.
    """
    done = [(row.method, row.seconds / row.steps) for row in rows if row.status == COMPLETE]
    if done:
        source = f"from the wall time of {len(done)} pilot runs in {comparison.rows}"
    else:
        done = list(_of_cells(comparison.cells, comparison.scale))
        source = f"from the wall time of {len(done)} committed cells in {comparison.cells}"
    if not done:
        return {}, "Hours are not known: no pilot run has ended, and no cell is committed."
    overall = fmean(pace for _, pace in done)
    found = {}
    for method in comparison.terms.grids:
        own = [pace for name, pace in done if name == method]
        found[method] = fmean(own) if own else overall
    return found, f"{source}, their stages before RL not counted"


def _of_cells(folder: Path, scale: str) -> list[tuple[str, float]]:
    """The method and seconds a step of every committed cell of a scale."""
    found = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        with reading(path):
            if record.get("scale") == scale and record.get("status") == COMPLETE:
                pace = float(record["wall_seconds"]) / int(record["steps"])
                found.append((str(record["scheme"]), pace))
    return found

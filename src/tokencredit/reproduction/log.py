"""One cell of each page made again, and the log of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.papers.formats import markdown
from tokencredit.papers.page import pages
from tokencredit.papers.runs import holds_runs
from tokencredit.reproduction.recorded import Recorded, read_recorded
from tokencredit.reproduction.rerun import Outcome, reproduce
from tokencredit.store.files import write_text
from tokencredit.store.run_folder import COMPLETE, git_commit

LOG: Final = "REPRODUCED.md"
HOUR: Final = 3600.0
HEAD: Final = ("page", "cell", "steps", "verdict", "first difference", "likely cause", "versions")
INTRODUCTION: Final = """\
# One cell of each page, made again

`make reproduce` writes this page: it runs the quickest cell of each page again, from what is
recorded beside it, and [compares](../docs/tables-and-figures.md#reproducing). On the same processor
with the same versions and threads all numbers must be equal; elsewhere keys must be, the mean score
of each step to about four standard errors, and the oracle's rating at the end to an interval, of
prompts or of seeds.
"""


def cell_of(page: str, experiments: Path) -> Path | None:
    """The quickest complete cell of a page that has steps; None where none says how it was made."""
    found: list[tuple[float, Path]] = []
    for path in sorted((experiments / page).glob("*.csv")):
        if not holds_runs(path) or not path.with_suffix(".json").is_file():
            continue
        recorded = read_recorded(path)
        if recorded.status == COMPLETE and recorded.steps and recorded.seconds is not None:
            found.append((recorded.seconds, path))
    return min(found)[1] if found else None


def hours_of(paths: Sequence[Path], steps: int | None) -> str:
    """How long runs took when they were recorded, the stages before them aside, in words."""
    took, unknown = 0.0, 0
    for path in paths:
        recorded = read_recorded(path)
        unknown += recorded.seconds is None
        took += _seconds(recorded, steps)
    more = f", {unknown} of unknown time" if unknown else ""
    return f"{took / HOUR:.2f} h, and the stages before that are not in the store{more}"


def _seconds(recorded: Recorded, steps: int | None) -> float:
    share = 1.0 if steps is None else min(1.0, steps / max(recorded.steps, 1))
    return (recorded.seconds or 0.0) * share


def reproduce_pages(
    experiments: Path,
    steps: int | None,
    store: Path | None,
    again: Callable[[Path, int | None, Path | None], Outcome] = reproduce,
) -> tuple[Path, bool]:
    """Make one cell of each page again with `again`; the log's path, and whether all are equal.

    The log is written anew after each cell, so what is done stays when the rest is interrupted.
    """
    chosen = {page: cell_of(page, experiments) for page in pages(experiments)}
    cells = [cell for cell in chosen.values() if cell is not None]
    if not cells:
        raise UserError(f"{experiments}: no page has a committed cell")
    say(f"reproduce: {len(cells)} cells, {hours_of(cells, steps)}")
    rows, equal = [], True
    with tempfile.TemporaryDirectory(prefix="tokencredit-stages-") as shared:
        for page, cell in chosen.items():
            if cell is None:
                rows.append([page, "no cell", *[""] * (len(HEAD) - 2)])
                continue
            say(f"reproduce: {cell}")
            outcome = again(cell, steps, store or Path(shared))
            equal &= outcome.difference is None
            rows.append(list(_row(page, cell, outcome)))
            write_text(experiments / LOG, log_text(rows))
    write_text(experiments / LOG, log_text(rows))
    return experiments / LOG, equal


def log_text(rows: Sequence[Sequence[str]]) -> str:
    """The page of these rows."""
    return f"{INTRODUCTION}\nCommit {git_commit() or 'unknown'}.\n\n{markdown(HEAD, rows)}\n"


def _row(page: str, cell: Path, outcome: Outcome) -> Iterator[str]:
    found, recorded = outcome.difference, outcome.recorded
    states = {check.what: check for check in outcome.checks}
    steps = states.get("steps")
    compared = "" if steps is None or steps is found else steps.text.partition(" steps")[0]
    yield from (page, cell.stem, compared)
    if found is not None:
        yield from ("**different**", f"{found.what}: {found.text}", outcome.cause)
    else:
        assert steps is not None
        yield from (steps.state.value, "", "")
    machine = outcome.machine
    there = f"{recorded.machine.processor}" if recorded.machine.processor else "unknown"
    libraries = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield f"{libraries}; {machine.processor} (recorded: {there})"

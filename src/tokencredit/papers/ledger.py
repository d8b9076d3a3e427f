"""The ledger of claims: every claim of the catalogue with its verdict, or what it would take."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokencredit.papers.claims import (
    Claim,
    FileClaim,
    Judged,
    WinClaim,
    papers,
    read_claims,
    read_win_claims,
)
from tokencredit.papers.file_claims import read_file_claims
from tokencredit.papers.formats import markdown
from tokencredit.papers.page import Page
from tokencredit.papers.verdicts import DEFINITIONS
from tokencredit.statistics.curves import mean
from tokencredit.store.files import read_yaml, write_text
from tokencredit.user_code.plugins import conf_dir

LEDGER: Final = "CLAIMS.md"
COMMAND: Final = re.compile(r"^# (tokencredit train .*)$", re.MULTILINE)
"""How the file of an experiment says what runs it."""
COMMA: Final = re.compile(r",(?![^{\[]*[}\]])")
"""Between the values of a sweep; not inside braces."""
ON_THE_WAY: Final = "evaluation.every=5"
"""What a claim on gold at equal KL needs of a run."""
HOUR: Final = 3600.0
HEAD: Final = ("claim", "says", "hypothesis", "test", "margin", "verdict", "numbers", "n")
INTRODUCTION: Final = """\
# Claims

`tokencredit claims --all` writes this page from the committed cells: every claim of the catalogue
by experiment, the primary one first.
"""


@dataclass(frozen=True, slots=True)
class Work:
    """What would make the cells of an experiment."""

    command: str
    cells: int
    seconds: float | None
    """Of one cell, the mean of those that are there; None where there are none."""

    def text(self) -> str:
        """The command and its hours."""
        if self.seconds is None:
            return f"`{self.command}` ({self.cells} cells, hours unknown)"
        hours = self.cells * self.seconds / HOUR
        return f"`{self.command}` ({self.cells} cells of {self.seconds:.0f} s, {hours:.1f} h)"


def write_ledger(experiments: Path) -> Path:
    """Write CLAIMS.md into the folder of experiments; its path."""
    path = experiments / LEDGER
    write_text(path, ledger(experiments))
    return path


def ledger(experiments: Path) -> str:
    """The page: a table for each experiment, and below it what its claims without data need."""
    parts = [INTRODUCTION, DEFINITIONS]
    for paper in papers():
        for task in tasks_of(paper):
            page = Page(f"{paper}/{task}", experiments)
            judged = sorted(page.judged(paper), key=lambda item: not item.primary)
            parts.append(f"## {paper}/{task}\n\n{_table(judged)}")
            parts += list(_missing(paper, page, judged))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def tasks_of(paper: str) -> list[str]:
    """The experiments that claims of a paper are about, in the order of its file."""
    of_curves = [panel.tasks[0] for claim in read_claims(paper) for panel in claim.panels]
    others: list[WinClaim | FileClaim] = [*read_win_claims(paper), *read_file_claims(paper)]
    return list(dict.fromkeys([*of_curves, *(claim.task for claim in others)]))


def _table(judged: Sequence[Judged]) -> str:
    rows = []
    for item in judged:
        claim, finding = item.claim, item.finding
        test = claim.test if isinstance(claim, Claim) else claim.kind
        margin = "none" if claim.margin is None else f"{claim.margin:g}"
        name = f"**{claim.name}** (primary)" if item.primary else claim.name
        where = f"{claim.says} ({claim.where})"
        row = [name, where, claim.hypothesis, f"`{test}`", margin, f"**{finding.word}**"]
        rows.append([*row, finding.text, str(finding.n or "")])
    return markdown(HEAD, rows)


def _missing(paper: str, page: Page, judged: Sequence[Judged]) -> Iterator[str]:
    """What would make the data of claims that have none, one line for each command."""
    found: dict[str, list[str]] = {}
    for item in judged:
        if not item.finding.data:
            needs = getattr(item.claim, "level", None) is not None
            said = work_of(f"{paper}/{page.task}", wall_seconds(page), on_the_way=needs).text()
            found.setdefault(said, []).append(item.claim.name)
    lines = [f"- no data for {', '.join(dict.fromkeys(names))}: {w}" for w, names in found.items()]
    if lines:
        yield "\n".join(lines)


def wall_seconds(page: Page) -> float | None:
    """The mean time of the page's cells; None where none says it."""
    runs = [run for source in page.sources for run in source.runs]
    known = [run.origin.wall_seconds for run in runs if run.origin.wall_seconds is not None]
    return mean(known) if known else None


def work_of(experiment: str, seconds: float | None, *, on_the_way: bool) -> Work:
    """The command in an experiment's file, and how many cells its sweep has."""
    path = conf_dir() / "experiment" / f"{experiment}.yaml"
    if not path.is_file():  # a script's, whose page has its command
        return Work(
            f"python experiments/{experiment}.py --out experiments/{experiment}", 1, seconds
        )
    said = COMMAND.search(path.read_text(encoding="utf-8"))
    command = said[1] if said else f"tokencredit train -m experiment={experiment}"
    scale = "cpu" if "scale=cpu" in command else "paper"
    sweep = _swept(path) | _swept(conf_dir() / "scaled" / f"{experiment}_{scale}.yaml")
    cells = math.prod(len(COMMA.split(values)) for values in sweep.values())
    return Work(f"{command} {ON_THE_WAY}" if on_the_way else command, cells, seconds)


def _swept(path: Path) -> dict[str, str]:
    """What a file's sweep goes over: values with commas, by key."""
    tree: object = read_yaml(path) if path.is_file() else {}
    for name in ("hydra", "sweeper", "params"):
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return {str(k): str(v) for k, v in tree.items()} if isinstance(tree, Mapping) else {}

"""What methods answer to the same held-out prompts, side by side: a table of short texts.

Which prompts are shown is decided by a hash of their rows, not by anybody who has read the answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.canonical import digest
from tokencredit.console import visible
from tokencredit.errors import UserError, require
from tokencredit.papers.entries import Entry
from tokencredit.papers.formats import Format, MadeOfRows, Runs, TableEntry, markdown, with_remarks
from tokencredit.reports.samples import Row
from tokencredit.store.files import reading
from tokencredit.store.jsonl import read_objects

ANSWERS: Final = "answers.jsonl"
"""In an experiment's folder; a line has generator, row, instruction, and output, as that of
`judge compare`."""
MOST: Final = 6
"""Prompts of a table."""
LONGEST: Final = 200
"""Characters of a text, the mark of a cut among them."""
CUT: Final = " […]"
ACTIVE: Final = re.compile(r"[\\`*_\[\]<>&~:@$!]|(?<=www)\.")
"""What Markdown would read in a cell; a stroke is escaped with the cell."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one method says to one prompt, neither longer than a table has room for."""

    method: str
    row: int
    prompt: str
    text: str


def shortened(text: str) -> str:
    """The text, cut to 200 characters where it is longer; what was cut once is not cut again."""
    return text if len(text) <= LONGEST else text[: LONGEST - len(CUT)].rstrip() + CUT


def chosen_rows(answers: Mapping[str, Mapping[int, object]], count: int) -> list[int]:
    """The rows of so many prompts that all methods have answered, those of the smallest hashes.

    `answers`: by method, then by the prompt's row.
    """
    common = set.intersection(*(set(own) for own in answers.values())) if answers else set()
    return sorted(common, key=lambda row: digest(["answers side by side", row]))[:count]


def read_answers(path: Path) -> list[Answer]:
    """The answers in a file; raises `UserError` where a line lacks something."""
    rows = read_objects(path, "--runs")
    with reading(path):
        return [_answer(row) for row in rows]


def _answer(row: Row) -> Answer:
    texts = shortened(str(row["instruction"])), shortened(str(row["output"]))
    return Answer(str(row["generator"]), int(row["row"]), *texts)


@dataclass(slots=True, kw_only=True)
class AnswersEntry(TableEntry):
    """The answers of each method to a few held-out prompts."""

    kind: ClassVar[str] = "answers"

    task: str
    """The experiment in whose folder answers.jsonl lies."""
    prompts: int = MOST
    """How many prompts are shown."""
    fills: str
    """The command that writes the file."""

    def __post_init__(self) -> None:
        """Check how many prompts there are to be."""
        Entry.__post_init__(self)
        rule = f"must be from 1 to {MOST}"
        require(1 <= self.prompts <= MOST, "prompts", self.prompts, rule)

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def made(self, runs: Runs, points: int | None = None) -> SideBySide:
        """The table; of each method that has several files or seeds the first answer."""
        require(points is None, "--points", points, "these are texts, which have no steps")
        found: dict[str, dict[int, Answer]] = {}
        for path in runs.answers(self.task):
            for answer in read_answers(path):
                found.setdefault(answer.method, {}).setdefault(answer.row, answer)
        shown = {name: found[name] for name in self.methods if name in found}
        rows = chosen_rows(shown, self.prompts)
        if shown and not rows:
            raise UserError(f"--runs: {' and '.join(shown)} have no prompt in common")
        strange = [name for name in found if name not in self.methods]
        return SideBySide(self, [[own[row] for own in shown.values()] for row in rows], strange)


@dataclass(frozen=True, slots=True)
class SideBySide(MadeOfRows):
    """The answers to each prompt, in the order of the methods."""

    entry: AnswersEntry
    blocks: Sequence[Sequence[Answer]]
    strange: Sequence[str]
    """Whose answers there are besides."""

    def text(self, form: Format) -> str:
        """The table in that form; in Markdown nothing in a text is read as such."""
        if form is Format.markdown:
            return with_remarks(*self._inert(), self.remarks(), form)
        return MadeOfRows.text(self, form)

    def on_page(self) -> str:
        """The table, and what must be said of it; without answers that alone."""
        said = [f"*{line}*" for line in self.remarks()]
        return "\n\n".join([*([markdown(*self._inert())] if self.blocks else []), *said])

    def _inert(self) -> tuple[list[str], list[list[str]]]:
        head, rows = self.cells()
        return head, [[ACTIVE.sub(r"\\\g<0>", cell) for cell in row] for row in rows]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text; the prompt stands before the first of its answers."""
        rows = [
            [_line(answer.prompt) if not place else "", self.entry.methods[answer.method], said]
            for block in self.blocks
            for place, answer in enumerate(block)
            for said in [_line(answer.text)]
        ]
        return ["prompt", "method", "answer"], rows

    def numbers(self) -> list[Sequence[object]]:
        """Every answer, with the row of its prompt."""
        every = [answer for block in self.blocks for answer in block]
        return [
            ("row", "prompt", "method", "answer"),
            *((a.row, a.prompt, a.method, a.text) for a in every),
        ]

    def remarks(self) -> list[str]:
        """How the prompts were chosen, what was cut, and who is missing."""
        entry = self.entry
        lines = [f"{entry.title}. Paper: {entry.source}."]
        if not self.blocks:
            return [*lines, f"There are no answers yet. `{entry.fills}` writes them."]
        rows = ", ".join(str(block[0].row) for block in self.blocks)
        lines.append(
            f"Of the prompts that all have answered, the {len(self.blocks)} whose rows have the "
            f"smallest hashes (rows {rows}); nobody has chosen among them. A text of more than "
            f"{LONGEST} characters is cut there and ends with{CUT}."
        )
        there = {answer.method for answer in self.blocks[0]}
        missing = [called for name, called in entry.methods.items() if name not in there]
        lines += [f"Note: no answers of {', '.join(missing)}."] if missing else []
        return [*lines, *([f"Note: not shown: {', '.join(self.strange)}."] if self.strange else [])]


def _line(text: str) -> str:
    """A text as one line, without what would act on a terminal or page."""
    return visible(text).replace("\r", "").replace("\n", " ↵ ").replace("\t", " ").strip()

"""A table as Markdown, LaTeX, or CSV, whatever it shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.papers.entries import Entry, PanelEntry
from tokencredit.papers.opinions import Benchmark, Opinions
from tokencredit.papers.scores import Comparison
from tokencredit.papers.sources import Source
from tokencredit.store.sheets import csv_text

GREEK: Final = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "η": "eta",
    "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "φ": "varphi", "Δ": "Delta", "Σ": "Sigma", "Π": "Pi",
}  # fmt: skip
LATEX: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "√": r"$\surd$", "–": "--", "−": "$-$",
    "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "→": r"$\to$",
    "½": r"$\frac{1}{2}$", "²": "$^2$", "₁": "$_1$", "₂": "$_2$", "…": r"\dots{}",
    **{letter: f"$\\{name}$" for letter, name in GREEK.items()},
}  # fmt: skip
"""Letters that LaTeX reads as commands, or that its usual fonts have not in text."""


class Format(str, Enum):
    """How a table is written."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"


SUFFIX: Final = {Format.markdown: ".md", Format.latex: ".tex", Format.csv: ".csv"}


@dataclass(frozen=True, slots=True)
class Runs:
    """What a table may be made of; it asks for what it needs."""

    sources: Callable[[PanelEntry], Sequence[Source]]
    """The runs that an entry is about."""
    comparisons: Callable[[str], Sequence[Comparison]]
    """The comparisons of a task's models."""
    opinions: Callable[[Benchmark, str], Opinions] = field(default=lambda *_: {})
    """By method what was said of a task's answers."""
    answers: Callable[[str], Sequence[Path]] = field(default=lambda _: ())
    """Files of what methods answered in a task."""
    judges: Callable[[str, Sequence[str]], Sequence[Path]] = field(default=lambda *_: ())
    """Files NAME.json, of those names that a task has, of what its judges' stages came to."""


class Made(ABC):
    """A table with the numbers of runs."""

    @abstractmethod
    def text(self, form: Format) -> str:
        """The table in that form; what must be said of it follows, except in CSV."""

    @abstractmethod
    def on_page(self) -> str:
        """Markdown for the page of an experiment, which says what is the same for all of it."""


class MadeOfRows(Made):
    """One whose rows are the same in every form."""

    __slots__ = ()

    @abstractmethod
    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text."""

    @abstractmethod
    def numbers(self) -> list[Sequence[object]]:
        """Head and rows for CSV, every number at full precision."""

    @abstractmethod
    def remarks(self) -> list[str]:
        """What must be said of it."""

    def text(self, form: Format) -> str:
        """The table in that form; what must be said of it follows, except in CSV."""
        if form is Format.csv:
            return csv_text(self.numbers())
        return with_remarks(*self.cells(), self.remarks(), form)

    def on_page(self) -> str:
        """The table, and what must be said of it."""
        return "\n\n".join([markdown(*self.cells()), *(f"*{line}*" for line in self.remarks())])


class TableEntry(Entry):
    """A kind of tables."""

    __slots__ = ()
    command: ClassVar[str] = "table"

    @abstractmethod
    def made(self, runs: Runs, points: int | None = None) -> Made:
        """The table of these runs; `points` overrides how many first steps are used."""


def with_remarks(
    head: Sequence[str], rows: Sequence[Sequence[str]], said: Sequence[str], form: Format
) -> str:
    """A table as Markdown or LaTeX, and below it what must be said of it."""
    text = markdown(head, rows) if form is Format.markdown else _latex(head, rows)
    mark = "" if form is Format.markdown else "% "
    return "\n".join([text, "", *(f"{mark}{line}" for line in said)]).rstrip() + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned for those who read it as it is."""
    safe = [[cell.replace("|", r"\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in safe)) for i in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in safe
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table."""
    lines = [r"\begin{tabular}{" + "l" * len(head) + "}", r"\toprule"]
    lines += [" & ".join(map(_escape, head)) + r" \\", r"\midrule"]
    for number, row in enumerate(rows):
        if number and row[0]:
            lines.append(r"\midrule")
        lines.append(_protected(" & ".join(map(_escape, row))) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _protected(line: str) -> str:
    """A bracket at its beginning would be read as an argument of the line before."""
    return "{}" + line if line.startswith("[") else line


def _escape(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)

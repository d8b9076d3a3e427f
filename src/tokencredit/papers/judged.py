"""What people or a large model said of answers, beside the paper's: a table per benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from tokencredit.errors import require
from tokencredit.papers.entries import Entry
from tokencredit.papers.formats import MadeOfRows, Runs, TableEntry
from tokencredit.papers.frontier import DASH
from tokencredit.papers.opinions import Benchmark, Opinion, Opinions
from tokencredit.statistics.rounding import interval, rounded

CSV_COLUMNS: Final = ("method", "column", "mean", "low", "high", "n", "paper")


@dataclass(slots=True, kw_only=True)
class JudgedEntry(TableEntry):
    """A row for each method: the paper's numbers, and ours where somebody was asked."""

    kind: ClassVar[str] = "judged"

    task: str
    """The experiment whose answers are judged."""
    benchmark: Benchmark
    """mt_bench, alpaca_eval, or votes: whose files are read."""
    columns: list[str]
    """What is measured, in the order of the benchmark's numbers."""
    paper: dict[str, list[float]] = field(default_factory=dict)
    """The paper's numbers by method, one a column."""
    why: str
    """Why nobody was asked yet."""
    fills: str
    """The command that asks."""
    digits: int = 2
    """How many decimals are shown."""

    def __post_init__(self) -> None:
        """The paper must have a number for each column."""
        Entry.__post_init__(self)
        known, named = [each.value for each in Benchmark], self.benchmark
        require(named in known, "benchmark", named, f"must be one of {', '.join(known)}")
        self.benchmark = Benchmark(named)  # the file says it as text
        for method, theirs in self.paper.items():
            require(method in self.methods, "paper", method, "must be one of methods")
            rule = f"must have {len(self.columns)} numbers, one a column"
            require(len(theirs) == len(self.columns), f"paper.{method}", theirs, rule)

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def made(self, runs: Runs, points: int | None = None) -> Judged:
        """The table with what the files beside the cells say."""
        require(points is None, "--points", points, "these are opinions of answers, not of steps")
        return Judged(self, runs.opinions(self.benchmark, self.task))


@dataclass(frozen=True, slots=True)
class Judged(MadeOfRows):
    """The table with opinions by method, one a column."""

    entry: JudgedEntry
    opinions: Opinions

    def _of(self, method: str, place: int) -> Opinion | None:
        own = self.opinions.get(method, ())
        return own[place] if place < len(own) else None

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text."""
        entry = self.entry
        head = ["method"]
        for column in entry.columns:
            head += [f"{column}, paper", f"{column}, ours"]
        rows = []
        for method, called in entry.methods.items():
            theirs, row = entry.paper.get(method), [called]
            for place in range(len(entry.columns)):
                ours = self._of(method, place)
                paper = DASH if theirs is None else f"{theirs[place]:.{entry.digits}f}"
                row += [paper, DASH if ours is None else _text(ours, entry.digits)]
            rows.append(row)
        return head, rows

    def numbers(self) -> list[Sequence[object]]:
        """Every number, with what it is of."""
        found: list[Sequence[object]] = [CSV_COLUMNS]
        for method in self.entry.methods:
            theirs = self.entry.paper.get(method)
            for place, column in enumerate(self.entry.columns):
                x = self._of(method, place)
                ours = [""] * 4 if x is None else [x.mean, x.low, x.high, x.n]
                found.append([method, column, *ours, "" if theirs is None else theirs[place]])
        return found

    def remarks(self) -> list[str]:
        """What the numbers are, and what a reader must know."""
        entry = self.entry
        lines = [f"{entry.title}. Paper: {entry.source}."]
        strange = [name for name in self.opinions if name not in entry.methods]
        if strange:
            lines.append(f"Note: not shown: {', '.join(strange)}.")
        if self.opinions.keys() & entry.methods.keys():
            counts = sorted({x.n for own in self.opinions.values() for x in own if x is not None})
            each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            return [*lines, f"Ours: mean and 95 % interval, {each} {entry.benchmark.of}."]
        return [*lines, f"Ours is empty: {entry.why}. `{entry.fills}` fills it."]


def _text(x: Opinion, digits: int) -> str:
    return f"{rounded(x.mean, digits)} {interval(x.low, x.high, digits)}"

"""Mean scores of the same answers by several scorers, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.papers.entries import Entry
from tokencredit.papers.formats import MadeOfRows, Runs, TableEntry
from tokencredit.papers.frontier import DASH
from tokencredit.papers.scores import Comparison
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import rounded, with_interval

CSV_COLUMNS: Final = ("measure", "method", "seeds", "mean", "t_low", "t_high", "paper")


@dataclass(slots=True, kw_only=True)
class MeanScoreEntry(TableEntry):
    """A column for each scorer, a row for each method: the mean over prompts, then over seeds."""

    kind: ClassVar[str] = "mean_scores"

    task: str
    """The experiment with a folder for each scorer, which holds its scores.csv."""
    measures: dict[str, str]
    """The scorers by the names of their folders, and what they are called."""
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    """The paper's mean of each scorer, by method; those that it does not say are left out."""

    def __post_init__(self) -> None:
        """What the paper has must be of these scorers and methods."""
        Entry.__post_init__(self)
        require(bool(self.measures), "measures", self.measures, "must not be empty")
        for measure, theirs in self.paper.items():
            known = measure in self.measures
            require(known, "paper", measure, f"must be of {', '.join(self.measures)}")
            unknown = [method for method in theirs if method not in self.methods]
            require(not unknown, f"paper.{measure}", unknown, "each must be one of methods")

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def made(self, runs: Runs, points: int | None = None) -> MeanScores:
        """The means of the comparisons that are there; raises `UserError` where two are of one
        scorer."""
        require(points is None, "--points", points, "these are scores of answers, not of steps")
        found: dict[str, Comparison] = {}
        for comparison in runs.comparisons(self.task):
            measure = comparison.measure
            if measure in found:
                places = f"{found[measure].path} and {comparison.path}"
                raise UserError(f"--runs: {places} are both of {measure}; name one of them")
            if measure in self.measures:
                found[measure] = comparison
        return MeanScores(self, found)


@dataclass(frozen=True, slots=True)
class MeanScores(MadeOfRows):
    """The table, with the comparisons that there are, by scorer."""

    entry: MeanScoreEntry
    comparisons: Mapping[str, Comparison]

    def means(self, measure: str, method: str) -> list[float]:
        """The mean over prompts of each seed's answers; empty where there are none."""
        comparison = self.comparisons.get(measure)
        by_seed = {} if comparison is None else comparison.methods.get(method, {})
        return [fmean(scores.values()) for scores in by_seed.values()]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text."""
        entry = self.entry
        rows = [
            [called, *(self._cell(measure, method) for measure in entry.measures)]
            for method, called in entry.methods.items()
        ]
        return ["method", *entry.measures.values()], rows

    def _cell(self, measure: str, method: str) -> str:
        values, theirs = self.means(measure, method), self.entry.paper.get(measure, {})
        if not values:
            ours = DASH
        else:
            ours = with_interval(mean_ci(values)) if len(values) > 1 else rounded(values[0])
        return f"{ours} ({theirs[method]:g})" if method in theirs else ours

    def numbers(self) -> list[Sequence[object]]:
        """Every number, with what it is of."""
        found: list[Sequence[object]] = [CSV_COLUMNS]
        for measure in self.entry.measures:
            theirs = self.entry.paper.get(measure, {})
            for method in self.entry.methods:
                values = self.means(measure, method)
                x = mean_ci(values) if values else None
                ours = ["", "", ""] if x is None else [x.mean, x.low, x.high]
                found.append([measure, method, len(values), *ours, theirs.get(method, "")])
        return found

    def remarks(self) -> list[str]:
        """What the numbers are, and what a reader must know."""
        entry = self.entry
        theirs = f" In parentheses the paper's, {entry.source}." if entry.paper else ""
        lines = [f"{entry.title}: means over prompts, then over seeds.{theirs}"]
        if not self.comparisons:
            return [*lines, "Note: there are no scores yet."]
        first = next(iter(self.comparisons.values()))
        about = f" ({first.about})" if first.about else ""
        over = "in brackets the 95 % t interval over seeds"
        missing = [name for key, name in entry.measures.items() if key not in self.comparisons]
        lines.append(f"Ours: {first.prompts} prompts{about}; {over}.")
        return [*lines, *(f"Note: no scores by the {name}." for name in missing)]

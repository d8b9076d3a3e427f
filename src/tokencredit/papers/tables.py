"""Tables of runs' numbers with their intervals: the rows, and the text of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.papers.entries import (
    STATISTICS,
    Panel,
    PanelEntry,
    missing,
    name_of,
    said_of,
    settings_of,
)
from tokencredit.papers.formats import Format, Made, Runs, TableEntry, markdown, with_remarks
from tokencredit.papers.measures import Measured, in_words, measure
from tokencredit.papers.runs import Setting
from tokencredit.papers.sources import Source, lengths
from tokencredit.statistics.intervals import (
    Interval,
    PairedTest,
    authors_interval,
    mean_ci,
    paired_difference,
)
from tokencredit.statistics.rounding import interval, rounded, with_error, with_interval
from tokencredit.store.sheets import csv_text

DIGITS: Final = 4
"""As authors' runs are told apart."""
AUTHORS: Final = "mean ± 2 sd/√n"
T_INTERVAL: Final = "95 % t interval"
PAPER_COLUMNS: Final = ("paper_mean", "paper_half")
CSV_COLUMNS: Final = (
    *("panel", "source", "task", "method", "beta", "min_new_tokens", "max_new_tokens", "points"),
    *("n", "mean", "authors_half", "t_low", "t_high", "sd", *PAPER_COLUMNS),
    *("paired_difference", "paired_low", "paired_high", "paired_p", "pairs"),
    *("ended_below_start", "not_averaged"),
)


@dataclass(slots=True, kw_only=True)
class CurveTable(PanelEntry, TableEntry):
    """A number of the curve of each run, by method and panel, beside the paper's."""

    kind: ClassVar[str] = "table"

    statistic: str = "mean"
    """The number of one run. mean of the first points, mean of the last of them, or the value where
    the KL divergence first reaches a level."""
    baseline: str | None = None
    """The method that the others are compared with, run by run."""
    digits: int = 2
    """How many decimals the paper's numbers have."""

    def __post_init__(self) -> None:
        """Check the statistic."""
        PanelEntry.__post_init__(self)
        rule = f"must be one of {', '.join(STATISTICS)}"
        require(self.statistic in STATISTICS, "statistic", self.statistic, rule)

    def made(self, runs: Runs, points: int | None = None) -> Table:
        """Its rows, from the curves of runs."""
        return make_table(self, runs.sources(self), points)


@dataclass(frozen=True, slots=True)
class Row:
    """One method in one panel, from one source; without runs only the paper's number."""

    source: str
    panel: str
    method: str
    setting: Setting | None
    points: int
    paper: Sequence[float]
    measured: Measured = field(default_factory=Measured)
    difference: PairedTest | None = None
    """To the baseline, paired by run."""
    scale: str = ""
    key: str = ""
    """The method, by whatever name it is shown."""

    @property
    def n(self) -> int:
        """Runs averaged."""
        return len(self.measured.values)

    @property
    def comparable(self) -> bool:
        """Whether the runs are, as far as is known, of the paper's models and rewards."""
        return self.scale != "cpu"

    @property
    def authors(self) -> tuple[float, float] | None:
        """Mean and half width by the authors' rule."""
        return authors_interval(list(self.measured.values.values())) if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Mean and t interval."""
        return mean_ci(list(self.measured.values.values())) if self.n else None


@dataclass(slots=True)
class Table(Made):
    """A table of the catalogue with the numbers of some runs."""

    entry: CurveTable
    rows: list[Row]
    sources: list[Source]
    notes: list[str]

    def text(self, form: Format) -> str:
        """The table in that form; notes follow it, except in CSV."""
        if form is Format.csv:
            return to_csv(self)
        return with_remarks(*cells(self), remarks(self), form)

    def on_page(self) -> str:
        """The table, with its notes; the page says where its runs are from."""
        said = [f"*{note}*" for note in remarks(self) if note.startswith(("Note", "At scale"))]
        return "\n\n".join([markdown(*cells(self)), *said])


def make_table(entry: CurveTable, sources: Sequence[Source], points: int | None = None) -> Table:
    """The table of an entry; `points` overrides how many first steps are used."""
    panels = entry.with_points(points)
    rows = [row for panel in panels for row in _rows(entry, panel, sources)]
    unsaid = entry.own or not rows
    lacking = [text for p in panels if unsaid for text in missing(entry, p, sources)]
    if entry.own and not rows:
        raise UserError(f"{entry.title}: {'; '.join(lacking)}")
    said = [
        f"{row.panel}, {row.method}, not averaged: {text}"
        for row in rows
        for text in in_words(row.measured.without)
    ]
    said += lacking
    said += [text for source in sources for text in said_of(source, entry)]
    return Table(entry, rows, list(sources), list(dict.fromkeys(said)))


def _rows(entry: CurveTable, panel: Panel, sources: Sequence[Source]) -> Iterator[Row]:
    """The rows of a panel: methods in the entry's order, sources within them."""
    for method in entry.methods:
        paper = panel.paper.get(method, [])
        found = [row for s in sources for row in _of_source(entry, panel, s, method)]
        if found:
            yield from found
        elif paper:
            base = panel.points if isinstance(panel.points, int) else panel.points["paper"]
            yield Row("", panel.title, name_of(entry, method), None, base, paper, key=method)


def _of_source(entry: CurveTable, panel: Panel, source: Source, method: str) -> Iterator[Row]:
    settings = settings_of(panel, source, method)
    baseline = _baseline(entry, panel, source)
    for setting, runs in settings.items():
        measured = measure(runs, panel, entry.statistic)
        yield Row(
            source.name,
            panel.title,
            name_of(entry, method, setting, list(settings)),
            setting,
            panel.points_of(runs[0]),
            panel.paper.get(method, []),
            measured,
            None if method == entry.baseline else _paired(measured.values, baseline),
            runs[0].origin.scale,
            method,
        )


def _baseline(entry: CurveTable, panel: Panel, source: Source) -> Mapping[int, float]:
    """The baseline's number of each run; none if it has several settings in the panel."""
    if entry.baseline is None:
        return {}
    groups = list(settings_of(panel, source, entry.baseline).values())
    return measure(groups[0], panel, entry.statistic).values if len(groups) == 1 else {}


def _paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> PairedTest | None:
    common = sorted(values.keys() & baseline.keys())
    if len(common) < 2:
        return None
    return paired_difference([values[run] for run in common], [baseline[run] for run in common])


def remarks(table: Table) -> list[str]:
    """What the numbers are, where the runs are from, and everything a reader must know."""
    entry = table.entry
    whose = "Source" if entry.own and not entry.has_paper else "Paper"
    lines = [f"{entry.title}: {STATISTICS[entry.statistic]}. {whose}: {entry.source}."]
    if any(row.paper and row.n and not row.comparable for row in table.rows):
        lines.append("At scale cpu models and rewards are others than the paper's: no difference.")
    for source in table.sources:
        about = source.about()
        lines.append(f"Runs: {source.name}{f' ({about})' if about else ''}.")
    return [*lines, *(f"Note: {note}." for note in table.notes)]


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Head and rows as text."""
    entry, several = table.entry, len(table.sources) > 1
    head = ["", "method", *(["runs of"] if several else []), "n", "points", AUTHORS, T_INTERVAL]
    head += ["paper", "minus paper"] if entry.has_paper else []
    head += [f"minus {_baseline_called(entry)}, paired", "p"] if entry.baseline else []
    head += ["ended below start"]
    rows, before = [], None
    for row in table.rows:
        block = row.panel if row.panel != before else ""
        before = row.panel
        beside = [row.source] if several else []
        rows.append([block, row.method, *beside, *_numbers(row, entry)])
    return head, rows


def _baseline_called(entry: CurveTable) -> str:
    """What the baseline is called in the head of a table."""
    name = str(entry.baseline)
    return entry.methods.get(name, name) if entry.own else name


def _numbers(row: Row, entry: CurveTable) -> list[str]:
    paired = bool(entry.baseline)
    paper = " ± ".join(f"{value:.{entry.digits}f}" for value in row.paper)
    authors, interval = row.authors, row.interval
    if authors is None or interval is None:
        state = "no runs" if row.setting is None else "0"
        empty = [""] * (3 if paired else 1)
        theirs = [paper, ""] if entry.has_paper else []
        return [state, str(row.points), "", "", *theirs, *empty]
    apart = (
        rounded(authors[0] - row.paper[0], DIGITS, signed=True)
        if row.paper and row.comparable
        else ""
    )
    test = ["", ""]
    if row.difference is not None:
        d = row.difference.difference
        test = [with_interval(d, DIGITS, signed=True), _p(row.difference.p)]
    return [
        str(row.n),
        str(row.points),
        with_error(*authors, DIGITS),
        _interval(row),
        *([paper, apart] if entry.has_paper else []),
        *(test if paired else []),
        f"{row.measured.fallen} of {row.n}",
    ]


def _interval(row: Row) -> str:
    x = row.interval
    if x is None or x.n == 1:
        return "unknown (n = 1)"
    return f"± {rounded((x.high - x.low) / 2, DIGITS)} {interval(x.low, x.high, DIGITS)}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def to_csv(table: Table) -> str:
    """Every number at full precision, one line a row; paired differences are to the baseline."""
    kept = [table.entry.has_paper or name not in PAPER_COLUMNS for name in CSV_COLUMNS]
    rows = [[row.panel, row.source, *_identity(row), *_values(row)] for row in table.rows]
    return csv_text([list(compress(line, kept)) for line in [CSV_COLUMNS, *rows]])


def _identity(row: Row) -> list[object]:
    s = row.setting
    if s is None:
        return ["", row.key, "", "", "", row.points, 0]
    low, high = lengths(s).split("–")
    return [s.task, s.method, "" if s.beta is None else s.beta, low, high, row.points, row.n]


def _values(row: Row) -> list[object]:
    interval, authors, test = row.interval, row.authors, row.difference
    ours: list[object] = [""] * 5
    if interval is not None and authors is not None:
        sd = interval.se * interval.n**0.5
        ours = [*authors, interval.low, interval.high, sd]
    paper = [*row.paper, "", ""][:2]
    d = test.difference if test else None
    paired = [d.mean, d.low, d.high, test.p, test.n] if d and test else [""] * 5
    return [*ours, *paper, *paired, row.measured.fallen, len(row.measured.without)]

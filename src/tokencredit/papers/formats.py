"""A table as Markdown, LaTeX, or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import compress
from typing import Final

from tokencredit.papers.entries import Entry
from tokencredit.papers.sources import lengths
from tokencredit.papers.tables import Row, Table
from tokencredit.statistics.rounding import interval, rounded, with_error, with_interval
from tokencredit.store.sheets import csv_text

DIGITS: Final = 4
"""As authors' runs are told apart."""
AUTHORS: Final = "mean ± 2 sd/√n"
T_INTERVAL: Final = "95 % t interval"
STATISTICS: Final = {
    "mean": "mean of the first points of each run",
    "last": "mean of the last ten of the first points of each run",
    "at_kl": "smoothed over ten steps, where each run first comes there",
}
PAPER_COLUMNS: Final = ("paper_mean", "paper_half")
CSV_COLUMNS: Final = (
    *("panel", "source", "task", "method", "beta", "min_new_tokens", "max_new_tokens", "points"),
    *("n", "mean", "authors_half", "t_low", "t_high", "sd", *PAPER_COLUMNS),
    *("paired_difference", "paired_low", "paired_high", "paired_p", "pairs"),
    *("ended_below_start", "not_averaged"),
)
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


def render(table: Table, form: Format) -> str:
    """The table in that form; notes follow it, except in CSV."""
    if form is Format.csv:
        return to_csv(table)
    return with_remarks(*cells(table), remarks(table), form)


def with_remarks(
    head: Sequence[str], rows: Sequence[Sequence[str]], said: Sequence[str], form: Format
) -> str:
    """A table as Markdown or LaTeX, and below it what must be said of it."""
    text = markdown(head, rows) if form is Format.markdown else _latex(head, rows)
    mark = "" if form is Format.markdown else "% "
    return "\n".join([text, "", *(f"{mark}{line}" for line in said)]).rstrip() + "\n"


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
    head += [f"minus {_baseline(entry)}, paired", "p"] if entry.baseline else []
    head += ["ended below start"]
    rows, before = [], None
    for row in table.rows:
        block = row.panel if row.panel != before else ""
        before = row.panel
        beside = [row.source] if several else []
        rows.append([block, row.method, *beside, *_numbers(row, entry)])
    return head, rows


def _baseline(entry: Entry) -> str:
    """What the baseline is called in the head of a table."""
    name = str(entry.baseline)
    return entry.methods.get(name, name) if entry.own else name


def _numbers(row: Row, entry: Entry) -> list[str]:
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

"""What policies came to on held-out prompts: a page's table, and tables of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from tokencredit.errors import require
from tokencredit.papers.conduct import measured
from tokencredit.papers.entries import PanelEntry, missing, name_of, said_of, settings_of, task_of
from tokencredit.papers.formats import MadeOfRows, Runs, TableEntry, markdown
from tokencredit.papers.frontier import DASH, named_cells
from tokencredit.papers.measures import SFT, held_out
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, lengths
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import interval, with_error, with_interval

MEASURES: Final = {
    "score": "score",
    "oracle": "oracle's rating",
    "win_rate": "win rate over SFT",
    "kl": "KL (nats)",
    "distinct_2": "distinct-2",
    "length": "length",
    "perplexity": "perplexity",
    "perplexity_sft": "perplexity under SFT",
}
CSV_COLUMNS: Final = ("source", "task", "method", "measure", "n", "mean", "t_low", "t_high")
WHAT: Final = "mean over runs on held-out prompts after training, with the 95 % t interval"


@dataclass(slots=True, kw_only=True)
class HeldOutEntry(PanelEntry, TableEntry):
    """Several measures of the finished policies, a row a method; the oracle rates, and no step
    counts."""

    kind: ClassVar[str] = "held_out"

    measures: list[str]
    """What is shown, in this order, of `policy/…` in a run's evaluation."""

    def __post_init__(self) -> None:
        """Check the measures."""
        PanelEntry.__post_init__(self)
        unknown = [name for name in self.measures if name not in MEASURES]
        rule = f"must be of {', '.join(MEASURES)}"
        require(bool(self.measures) and not unknown, "measures", self.measures, rule)

    def made(self, runs: Runs, points: int | None = None) -> HeldOutTable:
        """Its rows, from the evaluations of finished runs."""
        require(points is None, "--points", points, "these are measures of finished runs")
        sources = list(runs.sources(self))
        rows = [row for source in sources or [Source("")] for row in _rows(self, source)]
        lacking = [text for p in self.panels for text in missing(self, p, sources)]
        said = [text for source in sources for text in said_of(source, self)]
        return HeldOutTable(self, sources, rows, list(dict.fromkeys([*lacking, *said])))


@dataclass(frozen=True, slots=True)
class Row:
    """A method's runs with an evaluation, or with the SFT models that these began with."""

    source: str
    task: str
    method: str
    name: str
    runs: Sequence[LoggedRun]
    of: str = "policy"
    """Whose measures: policy, or sft."""

    def values(self, measure: str) -> list[float]:
        """The measure of each run that has it; of an SFT model once, however many runs share it."""
        found = {
            (run.origin.made.stage_seed if self.of == SFT else run.run): value
            for run in self.runs
            if (value := held_out(run, f"{self.of}/{measure}")) is not None
        }
        return list(found.values())


def evaluated(runs: Sequence[LoggedRun]) -> list[LoggedRun]:
    """The runs that were measured after training."""
    return [run for run in runs if run.origin.evaluation]


def _rows(entry: HeldOutEntry, source: Source) -> list[Row]:
    """The rows of one source: every method in the entry's order, those without runs too. SFT's is
    from the others' evaluations where it has no runs."""
    found = []
    for panel in entry.panels:
        task = task_of(panel, source)
        of_methods = {name: settings_of(panel, source, name) for name in entry.methods}
        every = [x for own in of_methods.values() for runs in own.values() for x in evaluated(runs)]
        for method, settings in of_methods.items():
            for setting, runs in settings.items():
                name = name_of(entry, method, setting, list(settings))
                found.append(Row(source.name, task, method, name, evaluated(runs)))
            if not settings:
                first = (every, SFT) if method == SFT else ((), "policy")
                found.append(Row(source.name, task, method, name_of(entry, method), *first))
    return found


@dataclass(slots=True)
class HeldOutTable(MadeOfRows):
    """The measures of some runs."""

    entry: HeldOutEntry
    sources: list[Source]
    rows: list[Row]
    notes: list[str]

    def on_page(self) -> str:
        """The table, with its notes."""
        said = [f"*{line}*" for line in self.remarks() if line.startswith("Note")]
        return "\n\n".join([markdown(*self.cells()), *said])

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text."""
        entry, several = self.entry, len(self.sources) > 1
        head = ["method", *(["runs of"] if several else []), "n"]
        rows = []
        for row in self.rows:
            beside = [row.source] if several else []
            most = max(len(row.values(name)) for name in entry.measures)
            shown = [_shown(row.values(name)) for name in entry.measures]
            rows.append([row.name, *beside, str(most), *shown])
        return [*head, *(MEASURES[name] for name in entry.measures)], rows

    def numbers(self) -> list[Sequence[object]]:
        """Every number, with what it is of."""
        found: list[Sequence[object]] = [CSV_COLUMNS]
        for row in self.rows:
            for measure in self.entry.measures:
                values = row.values(measure)
                if values:
                    x = mean_ci(values)
                    own = [row.source, row.task, row.method, measure]
                    found.append([*own, x.n, x.mean, x.low, x.high])
        return found

    def remarks(self) -> list[str]:
        """What the numbers are, and what a reader must know."""
        abouts = [f"{source.name} ({source.about()})" for source in self.sources]
        runs = [f"Runs: {about}." for about in abouts]
        head = f"{self.entry.title}: {WHAT}. Paper: {self.entry.source}."
        return [head, *runs, *(f"Note: {note}." for note in self.notes)]


def _shown(values: Sequence[float]) -> str:
    return with_interval(mean_ci(values)) if values else DASH


ROLES: Final = {"reward_model": "reward model", "oracle": "oracle"}
ACCURACY: Final = (
    "Accuracy on held-out texts or pairs, cut to the length of responses (ties count half; "
    f"{DASH}: not measured with these cells), at"
)


def held_out_table(source: Source, task: str) -> str:
    """Markdown: mean over runs of each measure with its 95 % t interval; SFT's mean below."""
    groups = source.of(task)
    known = [r for runs in groups.values() for r in evaluated(runs)]
    present = [m for m in MEASURES if any(f"policy/{m}" in r.origin.evaluation for r in known)]
    head = ["method", "β", "tokens", "n", *(MEASURES[m] for m in present)]
    rows = []
    for setting, runs in groups.items():
        finished = evaluated(runs)
        fixed = [*named_cells(setting), str(len(finished))]
        rows.append([*fixed, *(measured(finished, f"policy/{m}") for m in present)])
    if known:
        reference = [measured(known, f"sft/{m}", spread=False) for m in present]
        rows.append(["SFT", "", "", "", *reference])
    return f"{markdown(head, rows)}\n\n{scorers_line(groups)}"


def scorers_line(groups: Mapping[Setting, Sequence[LoggedRun]]) -> str:
    """How often the scorers of runs are right of texts as short as responses, by their lengths."""
    by_length: dict[str, list[LoggedRun]] = {}
    for setting, runs in groups.items():
        by_length.setdefault(lengths(setting), []).extend(runs)
    parts = []
    for tokens, runs in by_length.items():
        said = ", ".join(f"{name} {_right(runs, role)}" for role, name in ROLES.items())
        parts.append(f"{tokens} tokens: {said}")
    return f"{ACCURACY} {'; '.join(parts)}."


def _right(runs: Sequence[LoggedRun], role: str) -> str:
    """The accuracy of one scorer with Wilson's interval; of several the mean, with Student's."""
    origins = [run.origin for run in runs if role in run.origin.scorers]
    found = list({origin.made.stage_seed: origin.scorers[role] for origin in origins}.values())
    if not found:
        return DASH
    if len(found) == 1:
        x = found[0]
        return f"{with_error(x['mean'], x['se'])} {interval(x['low'], x['high'])} of {x['n']}"
    return f"{with_interval(mean_ci([x['mean'] for x in found]))} of {len(found)} models"

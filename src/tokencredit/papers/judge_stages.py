"""How well judges that were trained on the same pairs name winners: a table, of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from tokencredit.errors import require
from tokencredit.papers.formats import MadeOfRows, Runs, TableEntry
from tokencredit.papers.frontier import DASH
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.store.files import read_json, reading

Figures = Mapping[str, Any]
"""What a stage came to, by its own names."""
SHARES: Final = ("accuracy", "sign_accuracy")
"""What stages call the share of held-out pairs whose winner they name."""
COLUMNS: Final = {
    "mse": "squared error",
    "train_mse": "in training",
    "antisymmetry_gap": "gap of the orders",
    "centring_residual": "centring residual",
}
"""Further figures, of judges that have them, and how the table names them."""
MINUTE: Final = 60.0


@dataclass(slots=True, kw_only=True)
class JudgeStages(TableEntry):
    """A row for each judge's stage that a run of the experiment ended with (algorithm=judge)."""

    kind: ClassVar[str] = "judge_stages"

    task: str
    """The experiment in whose folder STAGE.json lies, for each STAGE of `methods`."""
    fills: str
    """The command that writes the files."""

    @property
    def tasks(self) -> list[str]:
        """The name of its task."""
        return [self.task]

    def made(self, runs: Runs, points: int | None = None) -> JudgeTable:
        """The table of the files that are there."""
        require(points is None, "--points", points, "these are judges, which have no steps of RL")
        paths = {path.stem: path for path in runs.judges(self.task, list(self.methods))}
        records = {name: read_json(path) for name, path in paths.items()}
        for name, record in records.items():
            with reading(paths[name]):
                record["figures"]["pairs"], float(record["wall_seconds"])
                _share(record["figures"])
        return JudgeTable(self, records)


@dataclass(frozen=True, slots=True)
class JudgeTable(MadeOfRows):
    """The judges that there are, in the order of the entry."""

    entry: JudgeStages
    records: Mapping[str, Mapping[str, Any]]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows as text."""
        head = ["judge", "pairs", "held out", "winners named", *COLUMNS.values(), "minutes"]
        rows = []
        for name, called in self.entry.methods.items():
            record = self.records.get(name)
            if record is None:
                rows.append([called, *[DASH] * (len(head) - 1)])
                continue
            figures = record["figures"]
            row = [called, str(figures["pairs"]), str(figures.get("held_out", DASH))]
            row += [_share(figures), *(_number(figures.get(column)) for column in COLUMNS)]
            rows.append([*row, f"{record['wall_seconds'] / MINUTE:.1f}"])
        return head, rows

    def numbers(self) -> list[Sequence[object]]:
        """Head and rows for CSV."""
        shares = ("share", "low", "high")
        found: list[Sequence[object]] = [
            ("judge", "pairs", "held_out", *shares, *COLUMNS, "wall_seconds")
        ]
        for name, record in self.records.items():
            figures = record["figures"]
            key = _key(figures)
            own = [figures.get(f"{key}{end}", "") for end in ("", "_low", "_high")]
            more = [figures.get(column, "") for column in COLUMNS]
            counts = figures["pairs"], figures.get("held_out", "")
            found.append([name, *counts, *own, *more, record["wall_seconds"]])
        return found

    def remarks(self) -> list[str]:
        """What the numbers are, of what they were computed, and what is missing."""
        entry = self.entry
        lines = [f"{entry.title}. {entry.source}."]
        if missing := [
            called for name, called in entry.methods.items() if name not in self.records
        ]:
            lines.append(f"There is no {', '.join(missing)} yet. `{entry.fills}` fills the table.")
        if self.records:
            lines.append(
                "Winners named: the share of held-out pairs, a tie of the judge's counting half, "
                "with Wilson's 95 % interval. Minutes are those of the stage, its measuring too."
            )
        about = [
            f"{entry.methods[name]}: {record.get('scale')}, {record['names']['model']}, stage seed "
            f"{record['seeds']['stage_seed']}, commit {str(record.get('git_commit'))[:10]}, "
            f"{record.get('processor')}"
            for name, record in self.records.items()
        ]
        return [*lines, *(f"{said}." for said in about)]


def there(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files NAME.json of a folder."""
    return [path for name in names if (path := folder / f"{name}.json").is_file()]


def _key(figures: Figures) -> str:
    return next(name for name in SHARES if name in figures) if {*SHARES} & {*figures} else SHARES[0]


def _share(figures: Figures) -> str:
    """The share of winners that are named, with its interval."""
    key = _key(figures)
    share, low, high = (figures.get(f"{key}{end}") for end in ("", "_low", "_high"))
    if share is None or low is None or high is None:
        return DASH
    return f"{rounded(float(share))} {interval(float(low), float(high))}"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float | int) else DASH

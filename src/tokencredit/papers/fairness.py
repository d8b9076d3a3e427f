"""Whether methods that are compared began with the same, and were given the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokencredit.papers.conduct import operations, over, scored, scored_before
from tokencredit.papers.formats import markdown
from tokencredit.papers.frontier import DASH
from tokencredit.papers.pilot_files import rows_file
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, notes, short_label
from tokencredit.statistics.curves import mean
from tokencredit.store.files import Damaged, csv_rows

DIFFERS: Final = "⚠"
"""Beside the name of what differs between methods."""
NEAR: Final = 0.1
"""Measured amounts differ where means are further apart than this share of the largest."""
SHOWN: Final = 8
"""Letters of a hash that are shown."""
PILOT: Final = ("method", "seed", "steps")
"""Columns of the rows of pilots that are needed; runs of one `point` and seed are continued."""
Runs = Sequence[LoggedRun]


@dataclass(frozen=True, slots=True)
class Quantity(ABC):
    """Something that methods should have alike: a row of the table."""

    name: str

    @abstractmethod
    def cell(self, runs: Runs) -> str:
        """What runs of one method had; a dash where none says so."""

    @abstractmethod
    def apart(self, groups: Sequence[Runs]) -> bool:
        """Whether methods differ, as far as their runs say."""


@dataclass(frozen=True, slots=True)
class Same(Quantity):
    """What must be the same for all methods, for each seed by itself: a hash, or a name."""

    of: Callable[[LoggedRun], str | None]

    def cell(self, runs: Runs) -> str:
        """What all runs share, or how many kinds there are; how many say so, if not all."""
        known = [x for run in runs if (x := self.of(run))]
        if not known:
            return DASH
        kinds = set(known)
        some = f" ({len(known)} of {len(runs)})" if len(known) < len(runs) else ""
        return (known[0] if len(kinds) == 1 else f"{len(kinds)}, by seed") + some

    def apart(self, groups: Sequence[Runs]) -> bool:
        """Whether two methods differ in a seed; or, of other seeds, in all that each has."""
        found = [{run.run: x for run in runs if (x := self.of(run))} for runs in groups]
        known = [values for values in found if values]
        return any(_unlike(a, b) for place, a in enumerate(known) for b in known[:place])


def _unlike(a: Mapping[int, str], b: Mapping[int, str]) -> bool:
    common = a.keys() & b.keys()
    if common:
        return any(a[run] != b[run] for run in common)
    return set(a.values()) != set(b.values())


@dataclass(frozen=True, slots=True)
class Amount(Quantity):
    """What methods were given, or used: a number, of which the mean over runs is shown."""

    of: Callable[[LoggedRun], float | None]
    form: str = "{:,.0f}"
    near: float = 0.0
    """Share of the largest mean that is no difference."""

    def cell(self, runs: Runs) -> str:
        """The mean over the runs that say so."""
        return over(runs, self.of, self.form)

    def apart(self, groups: Sequence[Runs]) -> bool:
        """Whether means of methods differ."""
        means = [
            mean(known)
            for runs in groups
            if (known := [x for run in runs if (x := self.of(run)) is not None])
        ]
        return bool(means) and max(means) - min(means) > self.near * max(map(abs, means))


class Seeds(Quantity):
    """Which seeds were run."""

    __slots__ = ()

    def cell(self, runs: Runs) -> str:
        """Their number, and the first and last, or all where some between are missing."""
        seeds = sorted(run.run for run in runs)
        whole = seeds == list(range(seeds[0], seeds[-1] + 1))
        listed = f"{seeds[0]}–{seeds[-1]}" if whole else ", ".join(map(str, seeds))
        return f"{len(seeds)}: {listed}"

    def apart(self, groups: Sequence[Runs]) -> bool:
        """Whether they are not the same of all methods."""
        return len({frozenset(run.run for run in runs) for runs in groups}) > 1


def labelled_pairs(run: LoggedRun) -> float | None:
    """Pairs that were labelled for the DPO model that a run reads; None where it is not known.

    They are what was scored beyond the responses of its steps and reference scores, two a pair;
    of a model that learnt without rollouts all that was scored.
    """
    if run.stepless:
        return None if run.origin.scored is None else run.origin.scored / 2
    identity = run.origin.made.identity
    if identity is None:
        return None
    if "dpo" not in (identity.get("parents") or {}):
        return 0.0
    algorithm, before = (identity.get("inputs") or {}).get("algorithm"), scored_before(run)
    if before is None or not isinstance(algorithm, Mapping):
        return None
    reference = algorithm.get("normalise") == "reference"
    return (before[0] - (float(algorithm["normalise_samples"]) if reference else 0.0)) / 2


def _spent(name: str) -> Callable[[LoggedRun], float | None]:
    return lambda run: run.origin.spent.get(name)


def _fingerprint(name: str) -> Callable[[LoggedRun], str | None]:
    return lambda run: run.origin.fingerprints.get(name, "")[:SHOWN]


def _weights(role: str) -> Callable[[LoggedRun], str | None]:
    return lambda run: (run.origin.made.weights or {}).get(role, "")[:SHOWN]


BEGUN: Final = (
    Seeds("seeds"),
    Same("prompts of training", _fingerprint("rl")),
    Same("prompts of evaluation", _fingerprint("eval")),
    Same("weights at first (SFT model)", _weights("sft")),
)
"""What runs begin with."""
GIVEN: Final = (
    Amount("steps", lambda run: float(len(run))),
    Amount("scored samples", scored),
    Amount("labelled pairs", labelled_pairs),
    Amount("judge calls", _spent("judge_calls")),
    Amount("optimizer steps", _spent("optimizer_steps")),
    Amount("response tokens", _spent("response_tokens"), near=NEAR),
    Amount("operations", operations, "{:.2g}", near=NEAR),
    Amount("wall time (s)", lambda run: run.origin.wall_seconds, near=NEAR),
    Amount("peak memory (MiB)", _spent("peak_memory_mb"), near=NEAR),
    Same("commit", lambda run: run.origin.commit[:SHOWN]),
    Same("processor", lambda run: run.origin.processor.partition(",")[0]),
)
"""What they were given, and what that took."""
LEGEND: Final = (
    "What the methods began with and were given, means over runs; hashes are those of files, by "
    f"seed: where runs have several, methods are compared seed by seed. {DIFFERS}: methods differ; "
    f"of tokens, operations, time, and memory only by more than {NEAR:.0%} of the largest. Judge "
    "calls are responses that judge and scorer read for training; scored samples include two for "
    "each labelled pair; the tuning budget is the steps of all pilot runs of the method's own grid "
    f"(a control takes the point of the method that it controls, and has none). {DASH}: the cells "
    "do not hold it, or the method has no such thing."
)


def fairness_table(source: Source, task: str, folder: Path, baseline: str | None = None) -> str:
    """Markdown: a row for each quantity, a column for each setting, and a sentence on what differs.

    `folder` holds the cells, and beside them the pilots' rows. The baseline's column is the first.
    """
    groups = source.of(task)
    groups = dict(sorted(groups.items(), key=lambda item: item[0].method != baseline))
    if len(groups) < 2:
        return "*There are not yet two methods to compare.*"
    runs = list(groups.values())
    lines = [
        Line(quantity.name, [quantity.cell(own) for own in runs], quantity.apart(runs))
        for quantity in [*BEGUN, *_scorers(runs), *GIVEN]
    ]
    lines.append(_of_tuning(tuning_budgets(groups, folder)))
    names = [short_label(setting, groups) for setting in groups]
    table = markdown(["", *names], [line.row() for line in lines])
    remarks = [f"*Note: {note}.*" for note in notes(source, [task])]
    return "\n\n".join([LEGEND, table, *_said(lines, names), *remarks])


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity as it is shown: a cell for each method."""

    name: str
    cells: Sequence[str]
    apart: bool
    """Whether methods differ."""

    def row(self) -> list[str]:
        """The row of the table."""
        return [f"{DIFFERS} {self.name}" if self.apart else self.name, *self.cells]

    def by_method(self, names: Sequence[str]) -> str:
        """`scored samples (abc, sparse: 1,616; rto: 5,616)`: methods by what they had."""
        by_cell: dict[str, list[str]] = {}
        for name, cell in zip(names, self.cells, strict=True):
            by_cell.setdefault(cell, []).append(name)
        by_cell.pop(DASH, None)
        listed = "; ".join(f"{', '.join(own)}: {cell}" for cell, own in by_cell.items())
        return f"{self.name} ({listed})"


def _scorers(groups: Sequence[Runs]) -> list[Same]:
    """The weights of whatever rated responses, by role."""
    roles = [role for runs in groups for run in runs for role in run.origin.made.scorers()]
    return [
        Same(f"weights of {role.replace('_', ' ')}", _weights(role))
        for role in dict.fromkeys(roles)
    ]


def _of_tuning(budgets: Sequence[int | None]) -> Line:
    cells = [DASH if budget is None else f"{budget:,}" for budget in budgets]
    return Line("tuning budget (steps)", cells, len(set(cells) - {DASH}) > 1)


def tuning_budgets(groups: Mapping[Setting, Runs], folder: Path) -> list[int | None]:
    """For each setting, the steps of all pilot runs of its method; None where there are none.

    Rows are read from `tuning/<scale>.csv`. Of rows of one method, `point`, and seed the longest
    counts: it continued the others. Raises `Damaged` for a file without the columns that it needs.
    """
    found = []
    for setting, runs in groups.items():
        scales = {run.origin.scale for run in runs}
        path = rows_file(folder, next(iter(scales)))
        steps = _pilot_steps(path).get(setting.method) if len(scales) == 1 else None
        found.append(None if steps is None else sum(steps.values()))
    return found


def _pilot_steps(path: Path) -> dict[str, dict[tuple[str, str], int]]:
    """Steps of each pilot run, by method, then by point and seed."""
    found: dict[str, dict[tuple[str, str], int]] = {}
    for line, row in csv_rows(path) if path.is_file() else []:
        lacking = [name for name in PILOT if not row.get(name)]
        if lacking or not row["steps"].isdigit():
            what = ", ".join(lacking) or f"steps = {row['steps']!r}"
            raise Damaged(
                f"{path}, line {line}: {what}: needed are {', '.join(PILOT)}, steps whole"
            )
        # Without points, rows cannot continue each other, and every one counts.
        name = row.get("point") or f"line {line}", row["seed"]
        own = found.setdefault(row["method"], {})
        own[name] = max(own.get(name, 0), int(row["steps"]))
    return found


def _said(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    """What differs, and what no cell says, in words."""
    apart = "; ".join(line.by_method(names) for line in lines if line.apart)
    unknown = ", ".join(line.name for line in lines if set(line.cells) == {DASH})
    said = "All that the cells hold is the same for all methods."
    if apart:
        said = f"**Not the same for all methods:** {apart}."
    return [said, *([f"No cell says: {unknown}."] if unknown else [])]

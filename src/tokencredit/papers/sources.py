"""Runs that may be averaged together, and those that may not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tokencredit.errors import UserError
from tokencredit.papers.provenance import beyond_seeds
from tokencredit.papers.runs import LoggedRun, Setting, read_runs
from tokencredit.store.run_folder import COMPLETE

OF_A_METHOD: Final = (
    *("inputs.reward_scheme", "inputs.judge"),
    *("stage:", "version:", "parents.policy:", "recipes.policy:"),
)
"""What methods differ in by nature; so are parents that only one of them has."""
SHOWN: Final = 4
ORACLE: Final = "oracle"
"""The role of what rates and never pays."""


@dataclass(slots=True)
class Source:
    """Runs that belong together, under one name in tables and figures."""

    name: str
    runs: list[LoggedRun] = field(default_factory=list)

    def of(self, task: str, method: str | None = None) -> dict[Setting, list[LoggedRun]]:
        """The runs of a task, and method, by setting; runs in the order of their numbers."""
        found: dict[Setting, list[LoggedRun]] = {}
        for run in sorted(self.runs, key=lambda run: run.run):
            setting = run.setting
            if setting.task == task and method in {None, setting.method}:
                found.setdefault(setting, []).append(run)
        return dict(sorted(found.items(), key=lambda item: _order(item[0])))

    def about(self) -> str:
        """Where the runs are from: scale, model, commit, as far as that is known."""
        parts = []
        for name in ("scale", "model", "commit"):
            values = sorted({str(getattr(run.origin, name))[:10] for run in self.runs} - {""})
            parts += [f"{name} {', '.join(values)}"] if values else []
        return "; ".join(parts)


def read_sources(
    paths: Sequence[Path], compared: Callable[[Setting], bool] = lambda _: True
) -> list[Source]:
    """The runs of each path; those that may be averaged with earlier ones join them.

    Runs of settings that are `compared` must belong together; of others nothing is shown.
    """
    sources: list[Source] = []
    for path in paths:
        runs = read_runs(path)
        host = next((source for source in sources if _may_join(source.runs, runs)), None)
        if host is None:
            host = Source(_free_name(path, sources))
            sources.append(host)
        else:
            host.name = f"{host.name} + {_name(path)}"
        host.runs = _each_once([*host.runs, *runs])
    for source in sources:
        own = Source(source.name, [run for run in source.runs if compared(run.setting)])
        _check_unmixed(own)
        _check_scorers(own)
    return sources


def with_steps(
    groups: Mapping[Setting, Sequence[LoggedRun]],
) -> tuple[dict[Setting, list[LoggedRun]], str]:
    """The groups without models that learnt without rollouts, and what is left out, in words."""
    kept = {setting: [run for run in runs if not run.stepless] for setting, runs in groups.items()}
    gone = [short_label(setting, groups) for setting, runs in kept.items() if not runs]
    said = f"*Without steps, and so not here: {', '.join(gone)}.*" if gone else ""
    return {setting: runs for setting, runs in kept.items() if runs}, said


def notes(source: Source, tasks: Iterable[str]) -> list[str]:
    """What a reader of these runs must know: differences between methods, runs that did not end."""
    found = []
    for task in tasks:
        groups = source.of(task)
        found += _unfair(groups)
        for setting, runs in groups.items():
            bad = [run for run in runs if run.status != COMPLETE]
            found += [
                f"{label(setting)}, run {run.run}: {run.status} after {len(run)} steps"
                for run in bad
            ]
    return found


def label(setting: Setting, *, full: bool = True) -> str:
    """A setting in words."""
    beta = "" if setting.beta is None else f", β = {setting.beta:g}"
    task = f"{setting.task}, " if full else ""
    return f"{task}{setting.method}{beta}, {lengths(setting)} tokens"


def short_label(setting: Setting, among: Iterable[Setting]) -> str:
    """The method, or the whole setting where several are of its method."""
    alone = sum(other.method == setting.method for other in among) == 1
    return setting.method if alone else label(setting, full=False)


def lengths(setting: Setting) -> str:
    """The half-open range of a setting's response lengths."""
    return f"{setting.lengths[0]}–{setting.lengths[1]}"


def _order(setting: Setting) -> tuple[Any, ...]:
    return (setting.lengths, setting.method, -1.0 if setting.beta is None else setting.beta)


def _name(path: Path) -> str:
    return path.resolve().stem if path.suffix == ".csv" else path.resolve().name


def _free_name(path: Path, sources: Sequence[Source]) -> str:
    taken = {source.name for source in sources}
    return str(path) if _name(path) in taken else _name(path)


def _may_join(there: Sequence[LoggedRun], new: Sequence[LoggedRun]) -> bool:
    """Whether no task is in both, or only with the same settings of everything."""
    for a, b in _same_kind(there, new):
        if a.origin.made.identity is None or b.origin.made.identity is None:
            return False
        if a.setting == b.setting and (_differences(a, b) or _hashed(a) != _hashed(b)):
            return False
    return True


def _hashed(run: LoggedRun) -> bool:
    """Whether it is known which weights rated its responses."""
    return run.origin.made.weights is not None


def _same_kind(
    there: Sequence[LoggedRun], new: Sequence[LoggedRun]
) -> Iterator[tuple[LoggedRun, LoggedRun]]:
    """One pair of runs for every two settings of the same task and lengths."""
    ours = {run.setting: run for run in there}
    theirs = {run.setting: run for run in new}
    for a in ours.values():
        for b in theirs.values():
            kinds = [(s.setting.task, s.setting.lengths) for s in (a, b)]
            if kinds[0] == kinds[1]:
                yield a, b


def _each_once(runs: Iterable[LoggedRun]) -> list[LoggedRun]:
    """Every run once, although a runs folder and a committed cell may both hold it."""
    seen: dict[tuple[Setting, int], LoggedRun] = {}
    for run in runs:
        twin = seen.setdefault((run.setting, run.run), run)
        if twin is run:
            continue
        if not run.origin.key or twin.origin.key != run.origin.key:
            known = twin.origin.made.identity is not None and run.origin.made.identity is not None
            apart = "; ".join(_differences(twin, run)[:SHOWN]) or "seeds of the stages before"
            what = apart if known else "unknown settings"
            raise UserError(
                f"{twin.origin.path} and {run.origin.path}: both are run {run.run} of "
                f"{label(run.setting)}, of different configurations ({what}); give one of them"
            )
        if _hashed(run) and not _hashed(twin):
            seen[run.setting, run.run] = run
    return list(seen.values())


def _check_unmixed(source: Source) -> None:
    """Raise where runs of one setting differ in more than their seed."""
    first: dict[Setting, LoggedRun] = {}
    for run in source.runs:
        other = first.setdefault(run.setting, run)
        known = [item.origin.made.identity is not None for item in (other, run)]
        different = _differences(other, run) if all(known) else []
        if known[0] == known[1] and _hashed(other) != _hashed(run):
            different.append("only one of them says which weights rated it")
        if different or known[0] != known[1]:
            what = "; ".join(different[:SHOWN]) or "only one of them says how it was made"
            raise UserError(
                f"{other.origin.path} and {run.origin.path}: runs of {label(run.setting)} are of "
                f"different configurations ({what}); keep them in folders of their own and give "
                "each with --runs"
            )


def _check_scorers(source: Source) -> None:
    """Raise where runs that are compared, of one stage seed, were rated by different weights.

    What pays may be of another recipe with another method, such as a reward model of other pairs;
    one recipe has one model. The oracle is the same for all.
    """
    found: dict[tuple[Any, ...], dict[str, list[LoggedRun]]] = {}
    for run in source.runs:
        made, setting = run.origin.made, run.setting
        for role, sha in made.scorers().items():
            recipe = None if role == ORACLE else (made.recipes or {}).get(role)
            place = (setting.task, setting.lengths, made.stage_seed, role, recipe)
            found.setdefault(place, {}).setdefault(sha, []).append(run)
    for (task, _, stage_seed, role, _), groups in found.items():
        if len(groups) > 1:
            usual, *others = sorted(groups.items(), key=lambda item: -len(item[1]))
            named = "; ".join(
                f"{sha} rated {', '.join(str(run.origin.path) for run in runs[:SHOWN])}"
                + (f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else "")
                for sha, runs in others
            )
            raise UserError(
                f"{source.name}: runs of {task} with stage_seed {stage_seed} are compared and were "
                f"not rated by the same {role.replace('_', ' ')}: {usual[0]} rated "
                f"{len(usual[1])} of them, {named}; compute these again, or give each kind in a "
                "folder of its own with --runs"
            )


def _differences(a: LoggedRun, b: LoggedRun, ignored: tuple[str, ...] = ()) -> list[str]:
    """The settings in which two runs differ, their seeds aside."""
    leaves = beyond_seeds(a.origin.made, b.origin.made)
    return [leaf for leaf in leaves if not leaf.startswith(ignored)]


def _unfair(groups: Mapping[Setting, Sequence[LoggedRun]]) -> list[str]:
    """Settings in which methods differ that are compared with each other."""
    found: dict[str, None] = {}
    firsts = [runs[0] for runs in groups.values() if runs[0].origin.made.identity is not None]
    for a, b in pairwise(firsts):
        if a.setting.lengths == b.setting.lengths:
            leaves = [x for x in _differences(a, b, OF_A_METHOD) if "(absent)" not in x]
            if leaves:
                names = f"{a.setting.method} and {b.setting.method}"
                found[f"{names} differ in {'; '.join(leaves[:SHOWN])}"] = None
    return list(found)

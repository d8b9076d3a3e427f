"""The parts of the comparison, as tasks that each do one thing on both sides and compare it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from same_numbers import jobs
from same_numbers.compare import (
    Finding,
    compare_places,
    compare_runs,
    first_difference,
    lines_more,
    run_folders,
    with_more,
)
from same_numbers.sides import Side, Told, Wrong, check_fresh, copied, read, written

PROBE: Final = Path(__file__).parent / "probe.py"
MARK: Final = ".arguments.json"
EXPERIMENTS: Final = "experiments"
MAKING: Final[dict[Path, Lock]] = {}
"""Held while a place is made."""


@dataclass(frozen=True, slots=True)
class Both:
    """The two sides, and where copies for one command are made."""

    old: Side
    new: Side

    @staticmethod
    def place(side: Side, name: str) -> Path:
        """The folder of a run, which is done there now unless it is kept from before."""
        place, arguments = side.root / name, jobs.overrides(name)
        with MAKING.setdefault(place, Lock()):  # two tasks may read one run
            if not _is_there(place, arguments):
                shutil.rmtree(place, ignore_errors=True)
                jobs.furnish(place)
                check_fresh(side.ok(place, "train", *arguments), f"{side.name} {name}")
                _mark(place, arguments)
        return place

    def begun(self, name: str) -> Path:
        """The folder of a run of which the old side has done half, with its stages as they are."""
        place, arguments = self.old.root / f"{name}.begun", jobs.overrides(name, jobs.STEPS // 2)
        if not _is_there(place, arguments):
            copied(self.place(self.old, name), place)
            shutil.rmtree(place / "runs")
            self.old.ok(place, "train", *arguments)
            _mark(place, arguments)
        return place

    def run(self, name: str) -> Iterator[Finding]:
        """Parts one and two: keys, artifacts, and runs of one job."""
        yield from compare_places(name, self.place(self.old, name), self.place(self.new, name))

    def plan(self, name: str) -> Iterator[Finding]:
        """The old side's store and run, planned by both: nothing is left to do, in the same words."""
        told = self.on_copies(f"plan {name}", [name], ["plan", *jobs.overrides(name)])
        yield self.said(f"plan {name}", *told)
        misses = [line for line in told[1].out.splitlines() if not line.startswith("hit")][:-1]
        done = told[1].out.strip().endswith(", 0 misses")
        yield Finding(f"plan {name} all hits", None if done else f"{misses}")

    def report(self, name: str) -> Iterator[Finding]:
        """The summary, the figures, and the page of an old run."""
        (run,) = run_folders(self.place(self.old, name))
        told = self.on_copies(f"report {name}", [name], ["report", f"runs/{run}"])
        yield self.said(f"report {name}", *told)

    def resume(self, name: str) -> Iterator[Finding]:
        """A run that the old code began and the new code ends is that which was never ended."""
        whole = self.place(self.old, name)
        copy = copied(self.begun(name), self.new.root / f"{name}.resumed")
        told = self.new.ok(copy, "train", *jobs.overrides(name))
        continued = f"continues at step {jobs.STEPS // 2}" in told.err + told.out
        yield Finding(f"resume {name}", None if continued else "it does not say that it continues")
        found = [run_folders(side) for side in (whole, copy)]
        keys = found[0].keys() | found[1].keys()
        if len(keys) != 1 or found[0].keys() != found[1].keys():
            raise Wrong(f"resume {name}: the runs are {sorted(keys)}")
        (key,) = keys
        yield from compare_runs(f"resume {name}", found[0][key], found[1][key])

    def table(self, _: str) -> Iterator[Finding]:
        """A table of old runs."""
        arguments = ["table", "table.yaml", "--runs", "runs", "--out", "tables"]
        told = self.on_copies("table", ["sparse", "normalised"], arguments)
        yield self.said("table", *told)

    def compare(self, _: str) -> Iterator[Finding]:
        """Old runs that are compared on held-out prompts."""
        runs = [key for name in jobs.COMPARED for key in run_folders(self.place(self.old, name))]
        arguments = ["judge", "compare", *(f"runs/{run}" for run in runs), "--prompts", "8"]
        told = self.on_copies("judge compare", list(jobs.COMPARED), [*arguments, "--with-sft"])
        yield self.said("judge compare", *told)

    def on_copies(self, what: str, names: list[str], arguments: list[str]) -> tuple[Told, Told]:
        """What both sides say to a command on copies of the old side's places, laid together."""
        found = []
        for side in (self.old, self.new):
            kept = side.root / "told" / f"{what}.json"
            if not kept.is_file():
                place = side.root / "copies" / what
                for number, name in enumerate(names):
                    copied(self.place(self.old, name), place, begin=number == 0)
                written(kept, side.ok(place, *arguments))
                shutil.rmtree(place)
            found.append(read(kept))
        return found[0], found[1]

    @staticmethod
    def said(what: str, old: Told, new: Told) -> Finding:
        """Whether two commands ended alike: exit code, what they printed, and files.

        The new side may say more: lines between those that the old one printed.
        """
        first, second = asdict(old), asdict(new)
        for told in (first, second):
            told["out"] = told["out"].splitlines()
            del told["err"]  # where it lies is no result
        more = lines_more(first["out"], second["out"]) or []
        if more:
            second["out"] = first["out"]
        return Finding(with_more(what, more), first_difference(first, second))

    def experiments(self, _: str) -> Iterator[Finding]:
        """Every cell of every experiment: the same stages, the same inputs, done or not."""
        old, new = (self._probe(side) for side in (self.old, self.new))
        for name in sorted({cell.partition(" scale")[0] for cell in old | new}):
            mine, theirs = (
                {cell: v for cell, v in side.items() if cell.partition(" scale")[0] == name}
                for side in (old, new)
            )
            done = sum(value.get("done", False) for value in mine.values())
            what = f"{name}: {len(mine)} cells, {done} done"
            yield Finding(what, first_difference(mine, theirs))
        done = sum(value.get("done", False) for value in old.values())
        yield Finding("cells that are done", None if done else "there are none")
        refused = [cell for cell, value in new.items() if "error" in value]
        yield Finding(f"cells without keys: {len(refused)}", None)

    def _probe(self, side: Side) -> dict[str, Any]:
        kept, place = side.root / "cells.jsonl", side.root / EXPERIMENTS
        if not kept.is_file():
            place.mkdir(parents=True, exist_ok=True)
            ended = side.python(place, str(PROBE), str(side.tree / EXPERIMENTS))
            if ended.returncode != 0:
                raise Wrong(f"{side.name}: {ended.stderr[-3000:]}")
            kept.write_text(ended.stdout, encoding="utf-8")
        rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
        return {row.pop("cell"): row for row in rows}


def _is_there(place: Path, arguments: list[str]) -> bool:
    mark = place.with_name(f"{place.name}{MARK}")
    return mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == arguments


def _mark(place: Path, arguments: list[str]) -> None:
    place.with_name(f"{place.name}{MARK}").write_text(json.dumps(arguments), encoding="utf-8")


Task = tuple[str, Callable[[str], Iterator[Finding]], str]


def tasks(both: Both, only: set[str]) -> list[Task]:
    """What is to be done in which order; what reads a run comes after it."""
    names = [name for name in jobs.JOBS if not only or name in only]
    found: list[Task] = [(name, both.run, name) for name in names]
    found += [(f"plan {name}", both.plan, name) for name in names]
    found += [(f"report {name}", both.report, name) for name in names]
    found += [(f"resume {name}", both.resume, name) for name in names if name in jobs.RESUMED]
    for name, part in (
        ("table", both.table),
        ("compare", both.compare),
        (EXPERIMENTS, both.experiments),
    ):
        if not only or name in only:
            found.append((name, part, name))
    return found

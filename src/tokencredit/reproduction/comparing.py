"""A run against the same run made again: one check after the other, the first difference first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import stdev
from typing import Final

from scipy.special import ndtr, stdtrit

from tokencredit.canonical import differences
from tokencredit.reproduction.recorded import FIXED, ORACLE, Machine, Recorded, Row
from tokencredit.statistics.intervals import from_error
from tokencredit.statistics.rounding import rounded

ERRORS: Final = 4.0
"""Standard errors that a step's mean score may be apart on another machine, were they known."""
NEIGHBOURS: Final = 5
"""Steps on either side whose spread of scores is taken for one with a step's own."""
Z: Final = 1.96
"""Half the width of a 95 % interval of the normal distribution, in standard errors."""
FEWEST: Final = 3
"""Seeds whose spread says something."""
SHOWN: Final = 4


class State(str, Enum):
    """What a check came to."""

    same = "same"
    within = "within tolerance"
    different = "DIFFERENT"
    left_out = "not compared"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared."""

    what: str
    state: State
    text: str
    """The numbers; of a difference, both values."""

    def line(self) -> str:
        """The check as a line."""
        return f"{self.what:<10} {self.state.value}: {self.text}"


def compare_plan(recorded: Recorded, key: str, identity: Mapping[str, object]) -> Check:
    """Whether today's code and configuration give the recorded key."""
    if key == recorded.key:
        return Check("key", State.same, key)
    leaves = differences(recorded.identity, identity)
    shown = "; ".join(leaves[:SHOWN])
    more = f"; and {len(leaves) - SHOWN} more" if len(leaves) > SHOWN else ""
    what = f"{shown}{more}" if leaves else "the recorded identity is that of another key"
    return Check("key", State.different, f"{recorded.key} recorded, {key} now: {what}")


def apart(there: Machine, here: Machine) -> list[str]:
    """In what two machines differ that decides the last bits, in words; empty: in nothing."""
    found = [
        f"{name} {there.versions.get(name, 'unknown')} → {here.versions.get(name, 'unknown')}"
        for name in dict.fromkeys([*there.versions, *here.versions])
        if there.versions.get(name) != here.versions.get(name)
    ]
    found += [f"{leaf} (arithmetic)" for leaf in differences(there.arithmetic, here.arithmetic)]
    if not there.processor or there.processor != here.processor:
        found.append(f"processor {there.processor or 'unknown'} → {here.processor or 'unknown'}")
    return found


def compare(
    recorded: Recorded,
    again: Recorded,
    deviations: Sequence[float],
    batch: int,
    of_seeds: Sequence[float] = (),
) -> list[Check]:
    """Every check of a run made again, whose key is the recorded one.

    `deviations`: the standard deviation of the scores of each step of the new run; `batch`:
    responses of a step; `of_seeds`: the oracle's ratings at the end with this and other seeds.
    Where machine and versions are the same all numbers must be equal; elsewhere the mean scores as
    `step_bounds` says, and the oracle's rating at the end as `oracle_bound` does.
    """
    other = apart(recorded.machine, again.machine)
    exact = not other
    about = (
        "versions, processor, threads: numbers must be equal"
        if exact
        else f"{'; '.join(other)}: numbers within tolerance"
    )
    checks = [Check("machine", State.same if exact else State.left_out, about)]
    checks.append(_equal("data", recorded.data, again.data))
    if exact:
        checks.append(_equal("stages", recorded.weights, again.weights))
    else:
        checks.append(Check("stages", State.left_out, "weights have other last bits elsewhere"))
    checks.append(_prompts(recorded, again))
    if exact:
        checks.append(_exact_steps(recorded, again))
    else:
        checks.append(_near_steps(recorded, again, step_bounds(deviations, batch)))
    checks.append(_evaluation(recorded, again, of_seeds, exact=exact))
    return checks


def first_difference(checks: Sequence[Check]) -> Check | None:
    """The first check that failed."""
    return next((check for check in checks if check.state is State.different), None)


def likely_cause(recorded: Recorded, now: Machine, commit: str, found: Check) -> str:
    """What differs between the record and now, and so may be behind a difference."""
    if found.what == "key":
        if "version: " in found.text:
            return "Stage.version was raised: the stage computes something else than it did"
        if "parents." in found.text and "inputs." not in found.text:
            return "the configuration, data, or Stage.version of a stage before it"
        return "the configuration in conf/ has changed, or the record was edited"
    causes = apart(recorded.machine, now)
    if recorded.commit and commit and recorded.commit != commit:
        causes.append(f"commit {recorded.commit[:10]} → {commit[:10]}")
    if not causes:
        return "nothing that is recorded differs; the record was edited"
    return f"{'; '.join(causes)}; else the record was edited"


def _equal(what: str, there: Mapping[str, str], here: Mapping[str, str]) -> Check:
    common = [name for name in there if name in here]
    for name in common:
        if there[name] != here[name]:
            return Check(what, State.different, f"{name}: {there[name]} → {here[name]}")
    if not common:
        return Check(what, State.left_out, "the record holds none")
    return Check(what, State.same, f"hashes of {', '.join(common)}")


def _prompts(recorded: Recorded, again: Recorded) -> Check:
    """The samples' prompts and those of the evaluation; a cell keeps none, only their hashes."""
    if not recorded.prompts:
        return Check("prompts", State.left_out, "a cell keeps hashes of its records alone")
    known = set(again.prompts)
    reached = {place for place, _ in again.prompts}
    due = [pair for pair in recorded.prompts if pair[0] in reached]
    for place, prompt in due:
        if (place, prompt) not in known:
            return Check("prompts", State.different, f"{place}: {prompt!r} is not there now")
    return Check("prompts", State.same, f"{len(due)} prompts")


def _common(recorded: Recorded, again: Recorded) -> Iterator[tuple[int, Row, Row]]:
    """Pairs of rows of the same step, as far as both go."""
    for step, (there, here) in enumerate(zip(recorded.rows, again.rows, strict=False)):
        yield step, there, here


def _exact_steps(recorded: Recorded, again: Recorded) -> Check:
    columns: set[str] = set()
    for step, there, here in _common(recorded, again):
        for name in there:  # a column that was added later is in the new one alone
            if name not in here or there[name] != here[name]:
                return _unequal(step, name, there[name], here.get(name, "(none)"))
        columns |= there.keys()
    return Check("steps", State.same, f"{_count(recorded, again)}, {len(columns)} columns")


def step_bounds(deviations: Sequence[float], batch: int) -> list[tuple[float, float]]:
    """The standard error of each step's mean score, and how many of them two means may be apart.

    A standard deviation of few responses is itself uncertain, and four standard errors from it are
    nothing rare: with eight responses a step, two curves in five of 101 steps would differ by
    chance. So the variances of up to five steps on either side are averaged, and the bound is the
    quantile of Student's t that is exceeded as seldom as four standard errors of a normal variable
    (6.3e-5), with batch − 1 degrees of freedom for each step averaged.
    """
    found: list[tuple[float, float]] = []
    for step in range(len(deviations)):
        near = deviations[max(0, step - NEIGHBOURS) : step + NEIGHBOURS + 1]
        variance = sum(deviation**2 for deviation in near) / len(near)
        freedom = len(near) * (batch - 1)
        # Without freedom there is no spread either; the curve's own is used, and is not Student's.
        limit = -float(stdtrit(freedom, ndtr(-ERRORS))) if freedom else ERRORS
        found.append((math.sqrt(variance / batch), limit))
    return found


def _near_steps(
    recorded: Recorded, again: Recorded, bounds: Sequence[tuple[float, float]]
) -> Check:
    """Every step's mean score within its bound, in standard errors of the difference of means."""
    score, furthest = recorded.score, (0.0, ERRORS)
    spread = residual_error([float(str(row[score])) for row in recorded.rows if row.get(score)])
    for step, there, here in _common(recorded, again):
        for name in sorted(FIXED & there.keys()):
            if there[name] != here.get(name):
                return _unequal(step, name, there[name], here.get(name, "(none)"))
        if there.get(score) in {None, ""}:
            continue
        before, now = float(str(there[score])), float(str(here[score]))
        own, limit = bounds[step]
        error, most = math.sqrt(2) * (own or spread), limit if own else ERRORS
        away = abs(now - before) / error if error else math.inf * (now != before or 0)
        if not away <= most:
            said = f"{before} recorded, {now} now: {away:.1f} standard errors apart"
            return Check("steps", State.different, f"step {step}, {score}: {said}, over {most:.1f}")
        furthest = max(furthest, (away, most))
    said = f"{score} at most {furthest[0]:.2g} standard errors apart, of {furthest[1]:.1f} allowed"
    return Check("steps", State.within, f"{_count(recorded, again)}, {said}")


def residual_error(values: Sequence[float]) -> float:
    """The standard error of a step's mean from the curve alone: sd of its steps' differences / √2.

    Used where a step has no spread of scores; 0 with fewer than three steps.
    """
    steps = [b - a for a, b in pairwise(values)]
    if len(steps) < 2:
        return 0.0
    return stdev(steps) / math.sqrt(2)


def _evaluation(
    recorded: Recorded, again: Recorded, of_seeds: Sequence[float], *, exact: bool
) -> Check:
    """Held-out measures at the end; of a part of the steps there is nothing to compare."""
    if again.steps < recorded.steps or not recorded.evaluation:
        why = f"{again.steps} of {recorded.steps} steps" if recorded.evaluation else "there is none"
        return Check("evaluation", State.left_out, why)
    if exact:
        for name, there in recorded.evaluation.items():
            for part, value in there.items():
                found = again.evaluation.get(name, {}).get(part)
                if found != value:
                    said = f"{name}, {part}: {value} recorded, {found} now"
                    return Check("evaluation", State.different, said)
        return Check("evaluation", State.same, f"{len(recorded.evaluation)} measures")
    before, after = (side.evaluation.get(ORACLE) for side in (recorded, again))
    if not before or not after:
        return Check("evaluation", State.left_out, f"no {ORACLE}")
    half, of = oracle_bound(before["se"], of_seeds)
    inside = abs(after["mean"] - before["mean"]) <= half
    was, now = rounded(before["mean"]), rounded(after["mean"])
    said = f"{ORACLE}: {was} ± {rounded(half)} recorded ({of}), {now} now"
    return Check("evaluation", State.within if inside else State.different, said)


def oracle_bound(se: float, of_seeds: Sequence[float]) -> tuple[float, str]:
    """How far apart the oracle's ratings of two policies may be, and by what, in words.

    √2 times half a 95 % interval: of the prompts, or if that is more of the seeds. On another
    processor a run takes another way from the first bit that differs, and so ends where another
    seed might have; the spread over prompts, `se`, knows nothing of that.
    """
    prompts = Z * math.sqrt(2) * se
    n = len(of_seeds)
    seeds = math.sqrt(2) * from_error(0.0, stdev(of_seeds), n).high if n >= FEWEST else 0.0
    if seeds > prompts:
        return seeds, f"√2 times half the 95 % interval of {n} seeds"
    return prompts, "1.96 √2 standard errors"


def _unequal(step: int, column: str, before: object, now: object) -> Check:
    said = f"step {step}, {column}: {before} recorded, {now} now"
    return Check("steps", State.different, said)


def _count(recorded: Recorded, again: Recorded) -> str:
    return f"{min(len(recorded.rows), len(again.rows))} of {recorded.steps} steps"

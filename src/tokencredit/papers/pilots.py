"""Pilot runs, and the choice of each method's numbers from them (equal tuning).

Round 1 tries every point of every method's grid with one seed and a share of the steps. Round 2
lets the best of them run to the end, and the best two of those with the other pilot seeds too. A
point can be chosen whose means over the seeds keep the bounds; of these the one with the highest
rating by the run's oracle is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from tokencredit.errors import UserError
from tokencredit.papers.grids import Grid, Point, edges, extension, points
from tokencredit.store.run_folder import COMPLETE, FAILED

FINALISTS: Final = 2
"""Points of a method that are run with all seeds."""
MOST_WHOLE: Final = 4
"""Most points of a method that are run to the end with the first seed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a pilot run is for; a row of the file is told by it."""

    method: str
    point: Point
    round: int
    """1, or 2 for a run of all steps."""
    seed: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """One pilot run, a row of the file. Numbers of a failed run are NaN."""

    method: str
    point: Point
    round: int
    """1, or 2 for a run of all steps."""
    seed: int
    steps: int
    """RL steps that it was to have."""
    key: str
    """The run's, as it is in the names of run folders and cells."""
    status: str = COMPLETE
    """complete, or failed: its numbers went out of range."""
    gold: float = math.nan
    """Mean rating of the policy's responses to held-out prompts by the oracle (`policy/oracle`)."""
    kl: float = math.nan
    """Mean KL to the reference there, in nats a response (`policy/kl`)."""
    clip_fraction: float = math.nan
    """Share of tokens whose ratio was clipped, the mean over the run's steps."""
    distinct_2: float = math.nan
    """Distinct-2 of the policy's responses to held-out prompts."""
    sft_distinct_2: float = math.nan
    """The same of the SFT model's."""
    seconds: float = math.nan
    """Wall time of the RL run so far, its evaluation with it."""

    @property
    def trial(self) -> Trial:
        """What the run was for; no two rows of a file have the same."""
        return Trial(self.method, self.point, self.round, self.seed, self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is the same for all methods of a comparison, and each method's grid."""

    grids: Mapping[str, Grid]
    """Of the methods that are tuned, in the experiment's order."""
    follows: Mapping[str, str] = field(default_factory=dict)
    """The method whose point each control takes."""
    steps: int
    """RL steps of a whole run."""
    kl: float = 15.0
    """Largest mean KL of a whole run, in nats a response."""
    clip_fraction: float = 0.25
    """Largest share of clipped tokens."""
    distinct_2: float = 0.7
    """Least distinct-2, as a share of that of the SFT model."""
    share: float = 0.4
    """Share of the steps that a run of round 1 has."""
    seeds: Sequence[int] = (100, 101, 102)
    """Pilot seeds, of which round 1 has the first; no result is reported of them."""

    @property
    def first_steps(self) -> int:
        """Steps of a run of round 1: the nearest whole number, at least one."""
        return max(1, round(self.share * self.steps))

    def largest_kl(self, number: int) -> float:
        """Largest mean KL of a run of that round, in nats a response: in proportion to its steps.

        KL grows for as long as a policy trains, so a point that has just kept the whole bound after
        a share of the steps is far beyond it at the end.
        """
        return self.kl * self.first_steps / self.steps if number == 1 else self.kl

    def keep(
        self, number: int, kl: float, clip_fraction: float, distinct_2: float, sft: float
    ) -> bool:
        """Whether means of round `number` lie within the bounds; one that is NaN does not."""
        return (
            kl <= self.largest_kl(number)
            and clip_fraction <= self.clip_fraction
            and distinct_2 >= self.distinct_2 * sft
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """A point's means over the seeds of one round; NaN where one of its runs failed."""

    point: Point
    runs: int
    gold: float
    kl: float
    clip_fraction: float
    distinct_2: float
    within: bool
    """Whether the means lie within the bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The point of one method, and what must be said of it."""

    method: str
    means: Means
    edges: tuple[str, ...]
    """Keys of which no value was tried beyond the chosen one, although the grid was extended."""

    @property
    def point(self) -> Point:
        """The chosen point."""
        return self.means.point

    def remark(self) -> str:
        """What the page says of it besides its numbers; empty where nothing need be said."""
        out = "no point keeps the bounds: the one with the lowest KL" * (not self.means.within)
        edge = f"at the edge of {', '.join(self.edges)}" if self.edges else ""
        return "; ".join(filter(None, [out, edge]))


def check_terms(terms: Terms) -> None:
    """Raise `UserError` unless all methods have as many points, and controls follow one of them."""
    counts = {method: len(points(grid)) for method, grid in terms.grids.items()}
    if not counts:
        raise UserError(
            "tuning.grid: no method of the experiment has one; declare it in conf/method/NAME.yaml"
        )
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{method} {count}" for method, count in counts.items())
        raise UserError(
            f"tuning.grid: methods that are compared must have the same number of points ({said})"
        )
    for control, leader in terms.follows.items():
        if leader not in terms.grids:
            raise UserError(
                f"tuning.follows = {leader!r} (of method {control}): is no tuned method of the "
                f"experiment (tuned: {', '.join(terms.grids)})"
            )


def ranking(rows: Sequence[Pilot], terms: Terms, method: str, number: int) -> list[Means]:
    """The points of a method by their runs of one round, the best first.

    Points within the bounds come first, by rating, ties by the lower KL; then the others by the
    lower KL, and those with a failed run last.
    """
    own = [row for row in rows if row.method == method and row.round == number]
    found = [_means(own, terms, point, number) for point in dict.fromkeys(row.point for row in own)]

    def place(means: Means) -> tuple[bool, float, float]:
        kl = math.inf if math.isnan(means.kl) else means.kl
        return not means.within, -means.gold if means.within else 0.0, kl

    return sorted(found, key=place)


def _means(rows: Sequence[Pilot], terms: Terms, point: Point, number: int) -> Means:
    own = [row for row in rows if row.point == point]
    failed = any(row.status == FAILED for row in own)

    def mean(column: str) -> float:
        return math.nan if failed else fmean(getattr(row, column) for row in own)

    kl, clipped, distinct = mean("kl"), mean("clip_fraction"), mean("distinct_2")
    within = not failed and terms.keep(number, kl, clipped, distinct, mean("sft_distinct_2"))
    return Means(
        point=point,
        runs=len(own),
        gold=mean("gold"),
        kl=kl,
        clip_fraction=clipped,
        distinct_2=distinct,
        within=within,
    )


def trials(rows: Sequence[Pilot], terms: Terms) -> list[Trial]:
    """Every pilot run that is known to be needed by the rows so far, in the order of the rounds.

    The extension is known once round 1 is there, the points that are run to the end once the
    extension is, and the two that are run with the other seeds once enough of these are.
    """
    there = {row.trial: row for row in rows}
    found = _first(terms, {method: points(grid) for method, grid in terms.grids.items()})
    for step in (_extended, *[_to_the_end] * (1 + MOST_WHOLE - FINALISTS), _with_other_seeds):
        if not all(trial in there for trial in found):
            break
        found = step([there[trial] for trial in found], terms)
    return found


def _first(terms: Terms, some: Mapping[str, Sequence[Point]]) -> list[Trial]:
    seed, steps = terms.seeds[0], terms.first_steps
    return [Trial(method, point, 1, seed, steps) for method, own in some.items() for point in own]


def _whole(terms: Terms, some: Mapping[str, Sequence[Point]], seeds: Sequence[int]) -> list[Trial]:
    return [
        Trial(method, point, 2, seed, terms.steps)
        for method, own in some.items()
        for point in own
        for seed in seeds
    ]


def _extended(rows: Sequence[Pilot], terms: Terms) -> list[Trial]:
    """These runs, and the extension of round 1."""
    return [row.trial for row in rows] + _first(terms, extensions(rows, terms))


def _to_the_end(rows: Sequence[Pilot], terms: Terms) -> list[Trial]:
    """These runs, and, unless enough points keep the bounds to the end, the next best of every
    method; at first the best two."""
    first = [row.trial for row in rows if row.round == 1]
    tried = max(len(ranking(rows, terms, method, 2)) for method in terms.grids)
    if tried and _enough(rows, terms):
        return [row.trial for row in rows]
    best = leaders(rows, terms, 1, tried + 1 if tried else FINALISTS)
    return first + _whole(terms, best, terms.seeds[:1])


def _with_other_seeds(rows: Sequence[Pilot], terms: Terms) -> list[Trial]:
    """These runs, and the other seeds of the two points that ended best."""
    best = leaders(rows, terms, 2, FINALISTS)
    return [row.trial for row in rows] + _whole(terms, best, terms.seeds[1:])


def _enough(rows: Sequence[Pilot], terms: Terms) -> bool:
    """Whether of every method as many points keep the bounds to the end as have all seeds."""
    return all(
        sum(means.within for means in ranking(rows, terms, method, 2)) >= FINALISTS
        for method in terms.grids
    )


def extensions(rows: Sequence[Pilot], terms: Terms) -> dict[str, list[Point]]:
    """The further points of round 1, the same number for each method; none if no best point lies
    at an edge. `rows` must hold every point of every grid.
    """
    best = {}
    for method, grid in terms.grids.items():
        inside = set(points(grid))
        own = [row for row in rows if row.point in inside]
        best[method] = ranking(own, terms, method, 1)[0].point
    count = max(len(edges(point, points(terms.grids[method]))) for method, point in best.items())
    return {method: extension(best[method], grid, count) for method, grid in terms.grids.items()}


def leaders(rows: Sequence[Pilot], terms: Terms, number: int, count: int) -> dict[str, list[Point]]:
    """The best points of each method by the runs of one round, `count` at most."""
    return {
        method: [means.point for means in ranking(rows, terms, method, number)[:count]]
        for method in terms.grids
    }


def choose(rows: Sequence[Pilot], terms: Terms) -> dict[str, Choice]:
    """The choice of each tuned method among the points that were run with all seeds.

    Raises `UserError` where one of them is not there yet.
    """
    chosen = {}
    for method in terms.grids:
        ranked = [m for m in ranking(rows, terms, method, 2) if m.runs == len(terms.seeds)]
        if len(ranked) < FINALISTS:
            raise UserError(f"method {method}: round 2 is not complete; run `tokencredit tune`")
        tried = [row.point for row in rows if row.method == method and row.round == 1]
        at = tuple(edges(ranked[0].point, tried))
        chosen[method] = Choice(method=method, means=ranked[0], edges=at)
    return chosen


def chosen_points(choices: Mapping[str, Choice], terms: Terms) -> dict[str, Point]:
    """The point of every method that has one: its own, or that of the method it is a control of."""
    own = {method: choice.point for method, choice in choices.items()}
    return own | {control: own[leader] for control, leader in terms.follows.items()}

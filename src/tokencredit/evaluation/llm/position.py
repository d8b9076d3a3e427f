"""Whether a judge prefers a place: its verdicts by place, and when both places swap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokencredit.evaluation.llm.prompt import Outcome
from tokencredit.evaluation.llm.verdicts import Verdict
from tokencredit.statistics.intervals import wilson


@dataclass(frozen=True, slots=True)
class Count:
    """A share of n, with its 95 % Wilson interval; of nothing it is unknown."""

    share: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, hits: int, n: int) -> Count:
        """`hits` of `n`."""
        return cls(hits / n, *wilson(hits / n, n), n) if n else cls(None, None, None, 0)

    def text(self) -> str:
        """In percent."""
        if self.share is None or self.low is None or self.high is None:
            return "–"
        return f"{100 * self.share:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.n}"


@dataclass(frozen=True, slots=True)
class Position:
    """How much the order of the answers decided."""

    a_verdicts: Count
    """Verdicts for the answer shown first; ½ if order was random and does not matter."""
    consistent: Count
    """Of the pairs asked in both orders, those with the same winner twice."""
    shown_first: dict[str, Count]
    """Wins of each generator when its answer came first."""
    shown_second: dict[str, Count]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def rows(self) -> list[list[str]]:
        """Name and value, for a table."""
        lines = [
            ["verdicts for the answer shown first", self.a_verdicts.text()],
            ["same winner in both orders", self.consistent.text()],
        ]
        for place, counts in (("first", self.shown_first), ("second", self.shown_second)):
            lines += [[f"{name} wins when shown {place}", c.text()] for name, c in counts.items()]
        return lines


def position(verdicts: Iterable[Verdict]) -> Position:
    """The report on verdicts, of which only those that name an answer count."""
    said = [v for v in verdicts if v.winner is not None]
    both = _asked_both_ways(said)
    names = sorted({name for v in said for name in (v.first, v.second)})
    return Position(
        Count.of(sum(v.outcome is Outcome.A for v in said), len(said)),
        Count.of(sum(len({v.winner for v in pair}) == 1 for pair in both), len(both)),
        {name: _wins(name, [v for v in said if v.first == name]) for name in names},
        {name: _wins(name, [v for v in said if v.second == name]) for name in names},
    )


def _asked_both_ways(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """The two verdicts on each pair of answers that was shown in both orders."""
    by_pair: dict[tuple[str, frozenset[str]], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_pair[verdict.item, frozenset((verdict.first, verdict.second))].append(verdict)
    return [pair for pair in by_pair.values() if len(pair) == 2]


def _wins(name: str, verdicts: Sequence[Verdict]) -> Count:
    return Count.of(sum(v.winner == name for v in verdicts), len(verdicts))

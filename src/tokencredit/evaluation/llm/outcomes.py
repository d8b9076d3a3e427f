"""From verdicts on questions to win rates and costs, and how much the order of answers decided."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from tokencredit.endpoint.messages import price
from tokencredit.errors import UserError
from tokencredit.evaluation.formats import Answers, matched
from tokencredit.evaluation.llm.prompt import Outcome
from tokencredit.evaluation.llm.verdicts import Verdict
from tokencredit.statistics.intervals import wilson
from tokencredit.statistics.length_control import AtEqualLength, at_equal_length
from tokencredit.statistics.win_rates import Against, WinMatrix, against

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """For every pair of generators, the prompts that were decided and how."""

    names: tuple[str, ...]
    shares: Mapping[Pair, Mapping[str, float]]
    """By item: 1 if the first generator of the pair won, 0 if the second did, ½ for a draw."""
    left_out: Counter[str]
    """Prompts of a pair without a verdict, by reason."""
    identical: int
    """Prompts of a pair with the same answer twice: a draw that nobody was asked about."""

    def matrix(self, notes: Sequence[str] = ()) -> WinMatrix:
        """Win rates of all pairs, each over its own prompts.

        Raises `UserError`, with `notes` on the replies, where there is no verdict on a pair.
        """
        cells: dict[Pair, Against] = {}
        for (row, column), found in self.shares.items():
            if not found:
                reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.items())
                raise UserError(
                    "; ".join([f"judge: no verdict between {row} and {column}: {reasons}", *notes])
                )
            cells[row, column] = against([list(found.values())])
            cells[column, row] = cells[row, column].mirrored()
        return WinMatrix(self.names, cells, dict.fromkeys(self.names, 1))


def judged(answers: Answers, verdicts: Iterable[Verdict], *, both_orders: bool) -> Judged:
    """The outcome of every pair on every prompt.

    Asked in both orders, a prompt counts if both gave a verdict: 1, 0, or ½ where they differ.
    """
    given: dict[tuple[str, frozenset[str]], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        given[verdict.item, frozenset((verdict.first, verdict.second))].append(verdict)
    items, _ = matched(answers)
    left_out: Counter[str] = Counter()
    identical, wanted = 0, 1 + both_orders
    shares: dict[Pair, dict[str, float]] = {}
    for pair in combinations(answers, 2):
        shares[pair] = {}
        for item in items:
            said = given[item, frozenset(pair)]
            winners = [v.winner for v in said if v.winner is not None]
            if answers[pair[0]][item].output == answers[pair[1]][item].output:
                identical += 1
                shares[pair][item] = 0.5
            elif len(winners) == wanted:
                shares[pair][item] = sum(w == pair[0] for w in winners) / wanted
            else:
                left_out[next(v.outcome.value for v in said if v.winner is None)] += 1
    return Judged(tuple(answers), shares, left_out, identical)


@dataclass(frozen=True, slots=True)
class Cost:
    """Requests and tokens, and their price where prices are known."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    price: float | None

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], prices: tuple[float, float] | None) -> Cost:
        """The cost of verdicts; prices are for a million tokens of requests and of replies."""
        rows = {v.key: v for v in verdicts}.values()
        asked, said = sum(v.prompt_tokens for v in rows), sum(v.completion_tokens for v in rows)
        return cls(sum(v.requests for v in rows), asked, said, price(asked, said, prices))

    def text(self) -> str:
        """In one line."""
        money = "" if self.price is None else f", {self.price:.4f} in the currency of the prices"
        return (
            f"{self.requests} replies, {self.prompt_tokens:,} tokens asked, "
            f"{self.completion_tokens:,} tokens said{money}"
        )


def outcomes(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How often each outcome came, those that never did included."""
    counts = Counter(v.outcome for v in verdicts)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def lengths(
    answers: Answers, shares: Mapping[Pair, Mapping[str, float]]
) -> dict[Pair, AtEqualLength]:
    """The win rate of every pair at equal length, lengths in characters."""
    return {
        (row, column): at_equal_length(
            list(found.values()),
            [answers[row][item].length for item in found],
            [answers[column][item].length for item in found],
        )
        for (row, column), found in shares.items()
        if found
    }


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

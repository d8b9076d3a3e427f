"""From verdicts on questions to win rates, costs, and a report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tokencredit.errors import UserError
from tokencredit.evaluation.annotations import annotation
from tokencredit.evaluation.answers import Answers, matched
from tokencredit.evaluation.llm.prompt import Outcome
from tokencredit.evaluation.llm.verdicts import Verdict
from tokencredit.papers.win_tables import table
from tokencredit.statistics.length_control import AtEqualLength, at_equal_length
from tokencredit.statistics.rounding import rounded, with_error
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
        price = None if prices is None else (asked * prices[0] + said * prices[1]) / 1e6
        return cls(sum(v.requests for v in rows), asked, said, price)

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


def length_table(found: Mapping[Pair, AtEqualLength], matrix: WinMatrix) -> str:
    """Markdown: raw rate, rate at equal length, and mean lengths."""
    rows = [
        [
            f"{row} against {column}",
            rounded(matrix.rate(row, column)),
            with_error(reading.rate, reading.se),
            f"{reading.length:.1f}",
            f"{reading.other_length:.1f}",
        ]
        for (row, column), reading in found.items()
    ]
    head = ["", "win rate", "at equal length", "mean length", "mean length of the other"]
    return table(head, rows)


def annotation_rows(answers: Answers, found: Judged, judge: str) -> list[dict[str, Any]]:
    """AlpacaEval's annotations.json; of each pair the second generator is its model, output 2."""
    rows = []
    for (first, second), decided in found.shares.items():
        for item, share in decided.items():
            a, b = answers[first][item], answers[second][item]
            rows.append(
                annotation(a.prompt, (a.output, b.output), (first, second), 1 - share, judge)
            )
    return rows


def from_scores(answers: Answers, names: Sequence[str]) -> dict[Pair, dict[str, float]]:
    """Shares by item from the scores that answers carry: the higher wins, equal ones draw."""
    items, _ = matched(answers)
    found: dict[Pair, dict[str, float]] = {}
    for row, column in combinations(names, 2):
        found[row, column] = {}
        for item in items:
            a, b = answers[row][item].score, answers[column][item].score
            if a is not None and b is not None:
                found[row, column][item] = 0.5 if a == b else float(a > b)
    return found

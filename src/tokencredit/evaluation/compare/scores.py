"""Responses of all models under one oracle: scores, win rates, strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokencredit.evaluation.compare.generate import Response
from tokencredit.evaluation.compare.oracles import Oracle
from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Prompting
from tokencredit.statistics.bradley_terry import strengths_or_why
from tokencredit.statistics.length_control import AtEqualLength, at_equal_length
from tokencredit.statistics.win_rates import Seed, WinMatrix, pairings, shares, win_matrix


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """A model with its responses, and their scores where an oracle was asked."""

    player: Player
    answers: list[Response]
    scores: list[float] | None

    @property
    def rated(self) -> list[float]:
        """The scores; there must be some."""
        assert self.scores is not None
        return self.scores

    @property
    def characters(self) -> list[int]:
        """Length of every response's text."""
        return [len(answer.text) for answer in self.answers]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Who wins against whom, how surely, and what of it length explains."""

    scored: Sequence[ScoredAnswers]
    methods: Mapping[str, Mapping[Seed, ScoredAnswers]]
    """The scored answers of every model, by its name and seed."""
    matrix: WinMatrix
    at_equal_length: Mapping[tuple[str, str], AtEqualLength]
    """The win rate of every pair at equal length in characters; of several seeds the means."""
    strengths: Mapping[str, Any]


def score(
    players: Sequence[Player],
    prompting: Prompting,
    answers: Sequence[list[Response]],
    oracle: Oracle | None,
) -> list[ScoredAnswers]:
    """Every model's responses with the oracle's scores."""
    prompts = [item.text for item in prompting.items]
    found = []
    for player, own in zip(players, answers, strict=True):
        scores = None if oracle is None else oracle.rate(prompts, [each.text for each in own])
        found.append(ScoredAnswers(player, own, scores))
    return found


def compare(scored: Sequence[ScoredAnswers]) -> Comparison:
    """Win rates and strengths of all methods from the scores of their responses."""
    methods: dict[str, dict[Seed, ScoredAnswers]] = {}
    for one in scored:
        methods.setdefault(one.player.name, {})[one.player.seed] = one
    matrix = win_matrix(
        {name: {seed: one.rated for seed, one in own.items()} for name, own in methods.items()}
    )
    strengths = strengths_or_why(matrix.wins(), matrix.names)
    return Comparison(scored, methods, matrix, _equal_length(methods), strengths)


def _equal_length(
    methods: Mapping[str, Mapping[Seed, ScoredAnswers]],
) -> dict[tuple[str, str], AtEqualLength]:
    names, found = list(methods), {}
    for i, row in enumerate(names):
        for column in names[i + 1 :]:
            own, other = methods[row], methods[column]
            met = pairings(own, other)
            verdicts = [shares(own[a].rated, other[b].rated) for a, b in met]
            found[row, column] = at_equal_length(
                np.mean(verdicts, axis=0).tolist(),
                np.mean([own[a].characters for a, _ in met], axis=0).tolist(),
                np.mean([other[b].characters for _, b in met], axis=0).tolist(),
            )
    return found

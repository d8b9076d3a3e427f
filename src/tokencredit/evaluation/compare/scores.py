"""Models against models: the same prompts, the same noise, one oracle, all win rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokencredit.canonical import canonical
from tokencredit.console import say
from tokencredit.evaluation.compare.generate import Generations, Said, Speaking
from tokencredit.evaluation.compare.oracles import Oracle
from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Prompting
from tokencredit.statistics.length_control import AtEqualLength, at_equal_length
from tokencredit.statistics.win_rates import Seed, WinMatrix, pairings, shares, win_matrix
from tokencredit.tracking.progress import Progress

Score = list[float]


@dataclass(frozen=True, slots=True)
class Spoken:
    """A model with its answers, and their scores where an oracle was asked."""

    player: Player
    answers: list[Said]
    scores: Score | None

    @property
    def rated(self) -> Score:
        """The scores; there must be some."""
        assert self.scores is not None
        return self.scores

    @property
    def characters(self) -> list[int]:
        """Length of every answer's text."""
        return [len(said.response) for said in self.answers]


def speak(
    models: Sequence[Player], prompting: Prompting, speaking: Speaking, out: Path
) -> list[list[Said]]:
    """The answers of every model to every prompt; known ones are not generated again."""
    generations = Generations(out, prompting, speaking)
    try:
        total = sum({p.identity: generations.missing(p) for p in models}.values())
        answered = 0
        with Progress(max(total, 1), 0, "generate") as bar:

            def tell(more: int) -> None:
                nonlocal answered
                answered += more
                bar.update(answered - 1, {})

            return [generations.of(player, tell) for player in models]
    finally:
        generations.close()


def rated(
    models: Sequence[Player],
    prompting: Prompting,
    answers: Sequence[list[Said]],
    oracle: Oracle | None,
) -> list[Spoken]:
    """Every model's answers with the oracle's scores."""
    prompts = [item.text for item in prompting.items]
    found = []
    for player, own in zip(models, answers, strict=True):
        scores = None if oracle is None else oracle.rate(prompts, [said.response for said in own])
        found.append(Spoken(player, own, scores))
    return found


def by_method(spoken: Sequence[Spoken]) -> dict[str, dict[Seed, Spoken]]:
    """Models by name and seed."""
    found: dict[str, dict[Seed, Spoken]] = {}
    for one in spoken:
        found.setdefault(one.player.name, {})[one.player.seed] = one
    return found


def matrix_of(spoken: Sequence[Spoken]) -> WinMatrix:
    """The win rates of all methods."""
    groups = by_method(spoken)
    return win_matrix({n: {seed: s.rated for seed, s in own.items()} for n, own in groups.items()})


def equal_length(spoken: Sequence[Spoken]) -> dict[tuple[str, str], AtEqualLength]:
    """The win rate of every pair at equal length in characters; of several seeds the means."""
    groups = by_method(spoken)
    names, found = list(groups), {}
    for i, row in enumerate(names):
        for column in names[i + 1 :]:
            own, other = groups[row], groups[column]
            met = pairings(own, other)
            verdicts = [shares(own[a].rated, other[b].rated) for a, b in met]
            found[row, column] = at_equal_length(
                np.mean(verdicts, axis=0).tolist(),
                np.mean([own[a].characters for a, _ in met], axis=0).tolist(),
                np.mean([other[b].characters for _, b in met], axis=0).tolist(),
            )
    return found


def data_differs(models: Sequence[Player]) -> list[str]:
    """Runs whose records are split otherwise than the first run's: its held-out prompts may not be
    held out for them.
    """
    runs = [player.run for player in models if player.run is not None]
    prints = [run.manifest.get("fingerprints") for run in runs]
    return [str(run.path) for run, own in zip(runs, prints, strict=True) if own != prints[0]]


def settings_of(speaking: Speaking) -> dict[str, Any]:
    """How answers were sampled, for results.json."""
    found = canonical(speaking)
    assert isinstance(found, dict)
    return {name: value for name, value in found.items() if name not in ("class", "batch")}


def warn_of_data(models: Sequence[Player]) -> list[str]:
    """Say which runs may have seen the prompts; their paths."""
    others = data_differs(models)
    for path in others:
        say(f"{path}: its data is split otherwise, so it may have been trained on these prompts")
    return others

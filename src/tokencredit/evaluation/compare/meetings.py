"""Which compared models are seeds of one method, and which of them meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from tokencredit.errors import UserError
from tokencredit.evaluation.compare.players import Player, Run
from tokencredit.papers.provenance import beyond_seeds, made_of
from tokencredit.statistics.win_rates import Seed, left_out, pairings


def check_distinct(models: Sequence[Player], *, named: bool) -> None:
    """Raise unless models of one name are seeds of one configuration."""
    first: dict[str, Player] = {}
    seen: set[tuple[str, Seed]] = set()
    for player in models:
        other = first.setdefault(player.name, player)
        unseeded = other is not player and None in {other.seed, player.seed}
        if unseeded or (player.name, player.seed) in seen:
            raise UserError(
                f"two models are called {player.name!r}; name all with --names a,b,… (one name "
                "twice means two seeds of a method)"
            )
        seen.add((player.name, player.seed))
        if not named and other is not player and other.run and player.run:
            _check_alike(other.run, player.run, player.name)


def _check_alike(one: Run, other: Run, name: str) -> None:
    """Raise where two runs of one scheme differ in more than their seeds."""
    apart = beyond_seeds(made_of(one.manifest), made_of(other.manifest))
    if apart:
        raise UserError(
            f"{one.path} and {other.path}: both are {name!r} but differ in {'; '.join(apart[:4])}; "
            "name all with --names a,b,…"
        )


def check_pairs(models: Sequence[Player]) -> list[str]:
    """Raise where two methods have no runs that meet; the runs that meet not all, in words."""
    runs: dict[str, list[Seed]] = {}
    for player in models:
        runs.setdefault(player.name, []).append(player.seed)
    for (one, own), (other, theirs) in combinations(runs.items(), 2):
        if not pairings(own, theirs):
            raise UserError(
                f"{one} has the seeds {own} and {other} {theirs}: none in common, so no runs "
                "meet; compare equal seeds, or name all with --names a,b,…"
            )
    return left_out(runs)

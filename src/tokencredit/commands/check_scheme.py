"""The promises that every reward scheme must keep, checked on made-up rollouts.

`tokencredit check-scheme NAME` runs them on a registered scheme, a user's own included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from tokencredit.config import load_plugins
from tokencredit.rewards.promises import (
    DECLARED,
    FINITE,
    GRADIENT,
    LENGTHS,
    MASKED,
    MEASURED,
    REMEDIES,
    SHAPE,
    SUM,
    as_declared,
    broken,
    example,
    unmeasured,
)
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.train import named_scheme
from tokencredit.user_code import promises

PADDING = 3


def check_scheme(scheme: RewardScheme) -> list[str]:
    """The names of the promises that hold; raises `UserError` with all that are broken."""
    found = examine(scheme)
    promises.require_all(type(scheme).__name__, found)
    return list(found)


def examine(scheme: RewardScheme) -> dict[str, str]:
    """By promise: what is wrong with it and what to do; empty where it holds.

    What cannot be told, of rewards that have not the right shape or are not there, is left out.
    """
    asked = {
        name: partial(promise, scheme)
        for name, promise in PROMISES.items()
        if name != SUM or scheme.preserves_sum()
    }
    return promises.examine(type(scheme).__name__, asked, REMEDIES)


def _rewards(scheme: RewardScheme, extra: int = 0, fill: float = 0.0) -> torch.Tensor:
    return scheme.token_rewards(*example(extra, scheme.evidence, fill))


def _kept(name: str) -> Callable[[RewardScheme], str | None]:
    """A promise that can be seen in the rewards of any batch, looked at with padding."""

    def check(scheme: RewardScheme) -> str | None:
        rollout, judgement = example(PADDING, scheme.evidence)
        rewards = scheme.token_rewards(rollout, judgement)
        problems = broken(scheme, rollout, judgement, rewards)
        if SHAPE in problems and name != SHAPE:
            return None
        narrow = name == SHAPE and not problems and rewards.dtype != torch.float32
        return f"found {rewards.dtype}" if narrow else problems.get(name, "")

    return check


def _declared(scheme: RewardScheme) -> str:
    rollout, judgement = example(0, scheme.evidence)
    told = as_declared(scheme, judgement)
    scheme.token_rewards(rollout, told)
    scheme.measure(rollout, told)
    return ""


def _measured(scheme: RewardScheme) -> str:
    return unmeasured(scheme.measure(*example(PADDING, scheme.evidence)))


def _padding(scheme: RewardScheme) -> str:
    padded = _rewards(scheme, PADDING)[:, : max(LENGTHS)]
    return _unless(torch.allclose(padded, _rewards(scheme), atol=1e-6), "other rewards with it")


def _poison(scheme: RewardScheme) -> str:
    same = torch.equal(_rewards(scheme, PADDING, torch.nan), _rewards(scheme, PADDING))
    return _unless(same, "other rewards with it")


def _permutation(scheme: RewardScheme) -> str:
    rollout, judgement = example(0, scheme.evidence)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = scheme.token_rewards(rollout[order], judgement[order])
    same = torch.allclose(shuffled, _rewards(scheme)[order], atol=1e-6)
    return _unless(same, "other rewards in another order")


def _untouched(scheme: RewardScheme) -> str:
    rollout, judgement = example(0, scheme.evidence)
    before = replace(
        judgement, evidence=judgement.evidence.clone(), scores=judgement.scores.clone()
    )
    values = rollout.values.clone()
    scheme.token_rewards(rollout, judgement)
    same = torch.equal(judgement.evidence, before.evidence) and torch.equal(
        judgement.scores, before.scores
    )
    return _unless(same and torch.equal(rollout.values, values), "a tensor that has changed")


def _unless(kept: bool, found: str) -> str:
    return "" if kept else f"found {found}"


PROMISES: dict[str, Callable[[RewardScheme], str | None]] = {
    SHAPE: _kept(SHAPE),
    MASKED: _kept(MASKED),
    FINITE: _kept(FINITE),
    DECLARED: _declared,
    MEASURED: _measured,
    "does not depend on padding": _padding,
    "ignores NaN in masked slots": _poison,
    "follows a permutation of the batch": _permutation,
    "leaves its inputs untouched": _untouched,
    GRADIENT: _kept(GRADIENT),
    SUM: _kept(SUM),
}


def check(
    name: Annotated[
        str, typer.Argument(help="A reward scheme: rto_v2, abc, …, or the name of a class.")
    ],
    plugin: Annotated[list[str] | None, typer.Option(help="Import this first; repeatable.")] = None,
    config_dir: Annotated[
        list[Path] | None, typer.Option(help="More YAML groups, laid out like conf/; repeatable.")
    ] = None,
) -> None:
    """Check that a reward scheme, your own included, keeps the promises that training relies on."""
    load_plugins(plugin or [])
    scheme = named_scheme(name, config_dir or [])
    promises.tell(type(scheme).__name__, examine(scheme))

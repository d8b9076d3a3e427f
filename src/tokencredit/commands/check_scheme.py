"""The promises that every scheme of rewards or advantages must keep, checked on made-up rollouts.

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
from tokencredit.ops import keep
from tokencredit.rewards.advantage_schemes import AdvantageScheme
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
    flaws,
    unmeasured,
)
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rollout import Judgement, Rollout
from tokencredit.train import named_scheme
from tokencredit.user_code import promises

PADDING = 3
Scheme = RewardScheme | AdvantageScheme


def check_scheme(scheme: Scheme) -> list[str]:
    """The names of the promises that hold; raises `UserError` with all that are broken."""
    found = examine(scheme)
    promises.require_all(type(scheme).__name__, found)
    return list(found)


def examine(scheme: Scheme) -> dict[str, str]:
    """By promise: what is wrong with it and what to do; empty where it holds.

    What cannot be told, of rewards that have not the right shape or are not there, is left out.
    """
    asked = {
        name: partial(promise, scheme)
        for name, promise in PROMISES.items()
        if name != SUM or (isinstance(scheme, RewardScheme) and scheme.preserves_sum())
    }
    return promises.examine(type(scheme).__name__, asked, REMEDIES)


def _asked(scheme: Scheme, rollout: Rollout, judgement: Judgement) -> torch.Tensor:
    """What the scheme makes of a batch, whose values stand for an algorithm's advantages."""
    if isinstance(scheme, RewardScheme):
        return scheme.token_rewards(rollout, judgement)
    advantages, penalty = (
        keep(x, rollout.response_mask) for x in (rollout.values, rollout.ref_logp - rollout.logp)
    )
    entropies = rollout.logp.abs() if scheme.reads_entropy else None
    return scheme.token_advantages(rollout, judgement, advantages, penalty, entropies)


def _rewards(scheme: Scheme, extra: int = 0, fill: float = 0.0) -> torch.Tensor:
    return _asked(scheme, *example(extra, scheme.evidence, fill))


def _kept(name: str) -> Callable[[Scheme], str | None]:
    """A promise that can be seen in the rewards of any batch, looked at with padding."""

    def check(scheme: Scheme) -> str | None:
        rollout, judgement = example(PADDING, scheme.evidence)
        rewards = _asked(scheme, rollout, judgement)
        if isinstance(scheme, RewardScheme):
            problems = broken(scheme, rollout, judgement, rewards)
        else:
            problems = flaws(rewards, rollout.response_mask, "an advantage")
        if SHAPE in problems and name != SHAPE:
            return None
        narrow = name == SHAPE and not problems and rewards.dtype != torch.float32
        return f"found {rewards.dtype}" if narrow else problems.get(name, "")

    return check


def _declared(scheme: Scheme) -> str:
    rollout, judgement = example(0, scheme.evidence)
    told = as_declared(scheme, judgement)
    _asked(scheme, rollout, told)
    if isinstance(scheme, RewardScheme):
        scheme.measure(rollout, told)
    return ""


def _measured(scheme: Scheme) -> str | None:
    if not isinstance(scheme, RewardScheme):
        return None
    return unmeasured(scheme.measure(*example(PADDING, scheme.evidence)))


def _padding(scheme: Scheme) -> str:
    padded = _rewards(scheme, PADDING)[:, : max(LENGTHS)]
    return _unless(torch.allclose(padded, _rewards(scheme), atol=1e-6), "other rewards with it")


def _poison(scheme: Scheme) -> str:
    same = torch.equal(_rewards(scheme, PADDING, torch.nan), _rewards(scheme, PADDING))
    return _unless(same, "other rewards with it")


def _permutation(scheme: Scheme) -> str:
    rollout, judgement = example(0, scheme.evidence)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = _asked(scheme, rollout[order], judgement[order])
    same = torch.allclose(shuffled, _rewards(scheme)[order], atol=1e-6)
    return _unless(same, "other rewards in another order")


def _untouched(scheme: Scheme) -> str:
    rollout, judgement = example(0, scheme.evidence)
    before = replace(
        judgement, evidence=judgement.evidence.clone(), scores=judgement.scores.clone()
    )
    values = rollout.values.clone()
    _asked(scheme, rollout, judgement)
    same = torch.equal(judgement.evidence, before.evidence) and torch.equal(
        judgement.scores, before.scores
    )
    return _unless(same and torch.equal(rollout.values, values), "a tensor that has changed")


def _unless(kept: bool, found: str) -> str:
    return "" if kept else f"found {found}"


PROMISES: dict[str, Callable[[Scheme], str | None]] = {
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
        str, typer.Argument(help="A scheme: rto_v2, abc, own, …, or the name of a class.")
    ],
    plugin: Annotated[list[str] | None, typer.Option(help="Import this first; repeatable.")] = None,
    config_dir: Annotated[
        list[Path] | None, typer.Option(help="More YAML groups, laid out like conf/; repeatable.")
    ] = None,
) -> None:
    """Check that a scheme of rewards or advantages, your own included, keeps its promises."""
    load_plugins(plugin or [])
    scheme = named_scheme(name, config_dir or [])
    promises.tell(type(scheme).__name__, examine(scheme))

"""The promises that every reward scheme must keep, checked on made-up rollouts.

`tokencredit check-scheme NAME` runs them on a registered scheme, a user's own included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tokencredit.errors import UserError
from tokencredit.ops import masked_sum
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout

LENGTHS = (1, 3, 6, 4, 2)
PADDING = 3


def check_scheme(scheme: RewardScheme) -> list[str]:
    """The names of the promises that hold; raises `UserError` with the first that is broken."""
    kept = []
    for name, promise in PROMISES.items():
        if name == "sums to the score" and not scheme.preserves_sum():
            continue
        try:
            held = promise(scheme)
        except Exception as error:
            raise UserError(
                f"{type(scheme).__name__}: fails while checking that it {name}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not held:
            raise UserError(f"{type(scheme).__name__}: broken promise: {name}")
        kept.append(name)
    return kept


def example(
    extra: int = 0, evidence: Evidence = Evidence.none, fill: float = 0.0
) -> tuple[Rollout, Judgement]:
    """Five responses of 1 to 6 tokens with `extra` columns of padding that holds `fill`."""
    generator = torch.Generator().manual_seed(0)
    rows, width = len(LENGTHS), max(LENGTHS)
    mask = torch.arange(width + extra) < torch.tensor(LENGTHS)[:, None]
    noise = torch.randn((4, rows, width), generator=generator)
    padded = torch.cat([noise, torch.full((4, rows, extra), fill)], dim=2)
    padded = torch.where(mask, padded, fill)
    weights = padded[3].abs() if evidence is Evidence.nonnegative else padded[3]
    rollout = Rollout(
        rows=torch.arange(rows),
        prompt_ids=torch.ones((rows, 2), dtype=torch.long),
        prompt_mask=torch.ones((rows, 2), dtype=torch.bool),
        response_ids=torch.full((rows, width + extra), 5),
        response_mask=mask,
        min_new=torch.zeros(rows, dtype=torch.long),
        finished=torch.tensor([True, False, True, True, False]),
        stopped=torch.zeros(5, dtype=torch.bool),
        groups=torch.arange(5),
        logp=padded[0],
        ref_logp=padded[1],
        values=padded[2],
    )
    ends = torch.arange(width + extra) % 2 == 0
    judgement = Judgement(
        scores=torch.tensor([1.5, -2.0, 0.3, 0.0, 4.0]),
        evidence=weights,
        ends=ends.expand(mask.shape) & (mask | bool(fill)),
    )
    return rollout, judgement


def _rewards(scheme: RewardScheme, extra: int = 0, fill: float = 0.0) -> torch.Tensor:
    return scheme.token_rewards(*example(extra, scheme.evidence, fill))


def _shape(scheme: RewardScheme) -> bool:
    rewards = _rewards(scheme)
    return rewards.shape == (len(LENGTHS), max(LENGTHS)) and rewards.dtype == torch.float32


def _masked(scheme: RewardScheme) -> bool:
    rollout, judgement = example(PADDING, scheme.evidence)
    return bool((scheme.token_rewards(rollout, judgement)[~rollout.response_mask] == 0).all())


def _finite(scheme: RewardScheme) -> bool:
    return bool(_rewards(scheme).isfinite().all())


def _padding(scheme: RewardScheme) -> bool:
    padded = _rewards(scheme, PADDING)[:, : max(LENGTHS)]
    return torch.allclose(padded, _rewards(scheme), atol=1e-6)


def _poison(scheme: RewardScheme) -> bool:
    return torch.equal(_rewards(scheme, PADDING, torch.nan), _rewards(scheme, PADDING))


def _permutation(scheme: RewardScheme) -> bool:
    rollout, judgement = example(0, scheme.evidence)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = scheme.token_rewards(rollout[order], judgement[order])
    return torch.allclose(shuffled, _rewards(scheme)[order], atol=1e-6)


def _untouched(scheme: RewardScheme) -> bool:
    rollout, judgement = example(0, scheme.evidence)
    before = replace(
        judgement, evidence=judgement.evidence.clone(), scores=judgement.scores.clone()
    )
    values = rollout.values.clone()
    scheme.token_rewards(rollout, judgement)
    same = torch.equal(judgement.evidence, before.evidence) and torch.equal(
        judgement.scores, before.scores
    )
    return same and torch.equal(rollout.values, values)


def _gradient(scheme: RewardScheme) -> bool:
    return not _rewards(scheme).requires_grad


def _sum(scheme: RewardScheme) -> bool:
    rollout, judgement = example(0, scheme.evidence)
    total = masked_sum(scheme.token_rewards(rollout, judgement), rollout.response_mask)
    return torch.allclose(total, judgement.scores, atol=1e-5)


PROMISES: dict[str, Callable[[RewardScheme], bool]] = {
    "returns float32 of shape (B, T)": _shape,
    "pays nothing where masked": _masked,
    "pays finite rewards, for one token too": _finite,
    "does not depend on padding": _padding,
    "ignores NaN in masked slots": _poison,
    "follows a permutation of the batch": _permutation,
    "leaves its inputs untouched": _untouched,
    "needs no gradient": _gradient,
    "sums to the score": _sum,
}

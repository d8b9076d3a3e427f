"""What every registered reward scheme promises, a user's own included."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from builders import make_judgement, make_rollout
from schemes import scheme_of
from tokencredit.config import COMPONENTS
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout

LENGTHS = [4, 1, 3, 6]
SCHEMES: list[RewardScheme] = [
    *(scheme_of(kind) for kind in COMPONENTS["reward_scheme"]),
    *(Redistribute(beta=beta) for beta in (0.0, 0.3, 1.0)),
]


def name(scheme: RewardScheme) -> str:
    return f"{type(scheme).__name__}{getattr(scheme, 'beta', '')}"


every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=name)


def case(width: int | None = None) -> tuple[Rollout, Judgement]:
    rollout = make_rollout(LENGTHS, width=width)
    return rollout, make_judgement(rollout)


@every_scheme
def test_shape_dtype_and_zeros(scheme: RewardScheme) -> None:
    rollout, judgement = case(width=8)
    rewards = scheme.token_rewards(rollout, judgement)
    assert rewards.shape == rollout.response_mask.shape
    assert rewards.dtype == torch.float32
    assert (rewards[~rollout.response_mask] == 0).all()
    assert rewards.isfinite().all()


def vars_of(part: Rollout | Judgement) -> dict[str, torch.Tensor]:
    return {item.name: getattr(part, item.name) for item in fields(part)}


@every_scheme
def test_no_gradient_comes_in_and_inputs_stay_as_they_are(scheme: RewardScheme) -> None:
    rollout, judgement = case()
    before = {
        item.name: getattr(part, item.name).clone()
        for part in (rollout, judgement)
        for item in fields(part)
        if getattr(part, item.name) is not None
    }
    assert len(before) >= 13
    assert not scheme.token_rewards(rollout, judgement).requires_grad
    found = vars_of(rollout) | vars_of(judgement)
    for name, tensor in before.items():
        assert torch.equal(found[name], tensor), name


@every_scheme
@pytest.mark.parametrize("poison", [0.0, float("nan"), float("inf"), 1e9])
def test_padding_and_what_stands_in_it_change_nothing(scheme: RewardScheme, poison: float) -> None:
    narrow, judgement = case()
    wide, wide_judgement = case(width=10)
    dirty = torch.where(wide.response_mask, wide_judgement.evidence, poison)
    rewards = scheme.token_rewards(narrow, judgement)
    other = scheme.token_rewards(wide, replace(wide_judgement, evidence=dirty))
    assert torch.allclose(rewards, other[:, : rewards.shape[1]], atol=1e-6)
    assert (other[:, rewards.shape[1] :] == 0).all()
    assert torch.equal(other, scheme.token_rewards(wide, wide_judgement))


@every_scheme
def test_padding_matters_to_a_scheme_without_a_mask(scheme: RewardScheme) -> None:
    wide, judgement = case(width=10)
    unmasked = replace(wide, response_mask=torch.ones_like(wide.response_mask))
    filled = replace(judgement, evidence=judgement.evidence + 0.5)
    right = scheme.token_rewards(wide, filled)
    assert not torch.allclose(right, scheme.token_rewards(unmasked, filled), atol=1e-3)


@every_scheme
def test_order_of_the_batch_is_the_order_of_the_rewards(scheme: RewardScheme) -> None:
    rollout, judgement = case()
    order = torch.tensor([2, 0, 3, 1])
    rewards = scheme.token_rewards(rollout, judgement)
    assert torch.equal(scheme.token_rewards(rollout[order], judgement[order]), rewards[order])
    for row, length in enumerate(LENGTHS):
        rows = torch.tensor([row])
        alone = scheme.token_rewards(rollout[rows], judgement[rows])
        assert torch.allclose(alone[0], rewards[row], atol=1e-6), length


@every_scheme
def test_sum_is_the_score_where_that_is_promised(scheme: RewardScheme) -> None:
    rollout, judgement = case()
    total = masked_sum(scheme.token_rewards(rollout, judgement), rollout.response_mask)
    if scheme.preserves_sum():
        assert torch.allclose(total, judgement.scores, atol=1e-5)


@every_scheme
def test_a_scheme_reads_what_it_declares(scheme: RewardScheme) -> None:
    rollout, judgement = case()
    changed = replace(judgement, evidence=keep(judgement.evidence.square(), rollout.response_mask))
    same = torch.equal(
        scheme.token_rewards(rollout, judgement), scheme.token_rewards(rollout, changed)
    )
    if scheme.evidence is Evidence.none:
        assert same
    elif getattr(scheme, "beta", 1.0) > 0:
        assert not same


@every_scheme
def test_calling_twice_gives_the_same_bits(scheme: RewardScheme) -> None:
    rollout, judgement = case()
    first: Tensor = scheme.token_rewards(rollout, judgement)
    assert torch.equal(first, scheme.token_rewards(rollout, judgement))

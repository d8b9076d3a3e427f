"""Metrics of a rollout: every one with a known, non-trivial value, none moved by padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from builders import make_judgement, make_rollout, mask_of
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rl.metrics import (
    credit_ends,
    credit_entropy,
    credit_shares,
    describe,
    eos_share,
    explained_variance,
)
from tokencredit.rollout import Judgement, Notes, Rollout, Targets


def by_hand() -> tuple[Rollout, Judgement, torch.Tensor, Targets]:
    rollout = replace(
        make_rollout([2, 1]),
        logp=torch.tensor([[-1.0, -2.0], [-0.5, 0.0]]),
        ref_logp=torch.tensor([[-1.5, -1.0], [-2.5, 0.0]]),
        values=torch.tensor([[1.0, 2.0], [3.0, 0.0]]),
        finished=torch.tensor([True, False]),
    )
    judgement = Judgement(
        scores=torch.tensor([4.0, -2.0]), evidence=torch.tensor([[0.5, 0.25], [1.0, 0.0]])
    )
    rewards = torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    targets = Targets(advantages=torch.zeros(2, 2), returns=torch.tensor([[1.0, 2.0], [6.0, 0.0]]))
    return rollout, judgement, rewards, targets


def test_field_B26_every_metric_by_hand() -> None:
    found = describe(*by_hand())
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    k3 = (math.exp(-0.5) - 1 + 0.5) + (math.exp(1) - 1 - 1) + (math.exp(-2) - 1 + 2)
    expected = {
        "score/mean": 1.0,
        "score/std": 18**0.5,
        "judge/sum": (0.75 + 1) / 2,
        "reward/mean": (4 - 2) / 2,
        "kl/k1": ((0.5 - 1.0) + 2.0) / 2,
        "kl/k3": k3 / 2,
        "length/mean": 1.5,
        "length/finished": 0.5,
        "credit/entropy": entropy / 2,
        "credit/eos_share": 0.75 / 2,
        "credit/first_third": 0.25 / 2,  # a single token is in the middle
        "credit/last_third": 0.75 / 2,
        "value/mean": 2.0,
        "value/explained_variance": 1 - 3.0 / 7.0,  # errors 0, 0, 3; returns 1, 2, 6
    }
    assert found == pytest.approx(expected, abs=1e-6)


def padded(rollout: Rollout, extra: int, poison: float) -> Rollout:
    mask = torch.nn.functional.pad(rollout.response_mask, (0, extra))
    fill = {
        name: torch.where(mask, torch.nn.functional.pad(getattr(rollout, name), (0, extra)), poison)
        for name in ("logp", "ref_logp", "values")
    }
    ids = torch.nn.functional.pad(rollout.response_ids, (0, extra), value=5)
    return replace(rollout, response_ids=ids, response_mask=mask, **fill)


@pytest.mark.parametrize("extra", [0, 50])
@pytest.mark.parametrize("poison", [0.0, 1e9, float("nan"), float("inf")])
def test_field_B25_padding_moves_no_metric(extra: int, poison: float) -> None:
    rollout = make_rollout([4, 1, 3, 2])
    judgement = make_judgement(rollout)
    rewards = Redistribute(beta=0.8).token_rewards(rollout, judgement)
    targets = Targets(advantages=rewards, returns=rewards.cumsum(1))

    def wide(x: torch.Tensor) -> torch.Tensor:
        mask = torch.nn.functional.pad(rollout.response_mask, (0, extra))
        return torch.where(mask, torch.nn.functional.pad(x, (0, extra)), poison)

    plain = describe(rollout, judgement, rewards, targets)
    other = describe(
        padded(rollout, extra, poison),
        replace(judgement, evidence=wide(judgement.evidence), ends=None),
        wide(rewards),
        Targets(advantages=wide(targets.advantages), returns=wide(targets.returns)),
    )
    assert other == pytest.approx(plain, abs=1e-5)


def test_field_B25_a_shifted_mask_would_be_seen() -> None:
    rollout = make_rollout([4, 1, 3, 2])
    judgement = make_judgement(rollout)
    rewards = Redistribute(beta=0.8).token_rewards(rollout, judgement)
    targets = Targets(advantages=rewards, returns=rewards.cumsum(1))
    shifted = replace(rollout, response_mask=rollout.response_mask.roll(1, dims=1))
    before = describe(rollout, judgement, rewards, targets)
    after = describe(shifted, judgement, rewards, targets)
    for name in ("kl/k1", "reward/mean", "value/mean"):
        assert abs(before[name] - after[name]) > 1e-3, name


@pytest.mark.parametrize(("n", "sign"), [(1, 1), (4, 1), (4, -1)])
def test_credit_entropy_of_uniform_and_sparse(n: int, sign: int) -> None:
    mask = mask_of([n, 1], 5)
    even = torch.where(mask, sign * 2.0, 0.0)
    assert credit_entropy(even, mask)[0].item() == pytest.approx(math.log(n), abs=1e-6)
    sparse = torch.zeros(2, 5)
    sparse[0, n - 1] = sign
    assert credit_entropy(sparse, mask).tolist() == [0, 0]


def test_credit_shares_of_a_response_without_credit_are_zero() -> None:
    mask = mask_of([3, 2], 3)
    rewards = torch.tensor([[0.0, 0.0, 9.0], [1.0, -3.0, 9.0]])
    rewards[0, 2] = 0
    assert credit_shares(rewards, mask).tolist() == [[0, 0, 0], [0.25, 0.75, 0]]


def test_eos_share_counts_responses_that_the_end_token_ended() -> None:
    rollout = replace(
        make_rollout([2, 2, 2]),
        finished=torch.tensor([True, False, True]),
        stopped=torch.tensor([False, False, True]),  # by a stop string
    )
    rewards = torch.tensor([[1.0, 3.0]]).expand(3, 2)
    assert eos_share(rewards, rollout).tolist() == [0.75, 0, 0]


@pytest.mark.parametrize(
    ("length", "first", "last"),
    [(1, 0, 0), (2, 1, 2), (3, 1, 4), (4, 1, 8), (5, 3, 24), (6, 3, 48)],
)
def test_field_B3_thirds_of_a_response_by_hand(length: int, first: float, last: float) -> None:
    """Credits 1, 2, 4, … of either sign; thirds of four or five tokens are the outer one or two."""
    mask = mask_of([length], 8)
    sizes = 2.0 ** torch.arange(8)
    rewards = torch.where(mask, sizes * (-1) ** torch.arange(8), float("nan"))
    total = 2**length - 1
    found = [share.item() for share in credit_ends(rewards, mask)]
    assert found == pytest.approx([first / total, last / total])


def test_field_B3_thirds_of_sparse_and_of_even_credit() -> None:
    rollout = make_rollout([9, 3])
    mask, judgement = rollout.response_mask, make_judgement(rollout)
    sparse, even = (
        [share.tolist() for share in credit_ends(scheme.token_rewards(rollout, judgement), mask)]
        for scheme in (Sparse(), Uniform())
    )
    assert sparse == [[0, 0], [1, 1]]
    assert even[0] == even[1] == pytest.approx([1 / 3, 1 / 3])


def test_explained_variance_of_perfect_and_of_constant_values() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 4.0]]), mask_of([3])
    assert explained_variance(returns, returns, mask).item() == 1
    assert explained_variance(torch.zeros(1, 3), returns, mask).item() == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 3), mask).item() == 0
    assert explained_variance(returns, returns, mask_of([1], 3)).item() == 0


def test_one_response_has_no_spread() -> None:
    rollout = make_rollout([3])
    judgement = make_judgement(rollout)
    rewards = Redistribute().token_rewards(rollout, judgement)
    found = describe(rollout, judgement, rewards, Targets(advantages=rewards, returns=rewards))
    assert found["score/std"] == 0 and all(math.isfinite(value) for value in found.values())


def test_what_a_judge_notes_of_responses_is_logged_as_batch_means() -> None:
    rollout = make_rollout([3, 2])
    judgement = replace(
        make_judgement(rollout), notes=Notes({"fallbacks": torch.tensor([1.0, 0.0])})
    )
    rewards = Redistribute().token_rewards(rollout, judgement)
    found = describe(rollout, judgement, rewards, Targets(advantages=rewards, returns=rewards))
    assert found["judge/fallbacks"] == 0.5

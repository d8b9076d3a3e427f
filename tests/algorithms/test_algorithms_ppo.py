"""The losses of PPO by hand: clipping, aggregation, verdicts, and the ranges of its numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from batches import gradients, leaf, output_of, targets_of
from builders import make_rollout, mask_of
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.algorithm import Decision
from tokencredit.algorithms.losses import Aggregation, policy_loss, value_loss
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError
from tokencredit.rollout import PolicyOutput, Rollout, Targets

NO_STATE: dict[str, float] = {}


def test_papers_slides_clipped_objective_by_hand() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    loss = policy_loss(ratio.log(), advantages, 0.2)
    assert (-loss).tolist() == pytest.approx([1.2, 0.5, -1.5, -0.8, 2.2])


def test_papers_slides_the_better_of_both_would_be_noticed() -> None:
    ratio, advantage = torch.tensor([1.5]), torch.tensor([-1.0])
    wrong = torch.minimum(-ratio * advantage, -ratio.clamp(0.8, 1.2) * advantage)
    assert wrong.item() != pytest.approx(policy_loss(ratio.log(), advantage, 0.2).item())


def test_clipped_value_loss_by_hand() -> None:
    values, old = torch.tensor([1.0, 0.1, 2.0]), torch.tensor([0.0, 0.0, 1.9])
    returns = torch.tensor([1.0, 1.0, 0.0])
    # moved to 0.2, 0.1, 2.0; the worse of both squares counts
    expected = [0.5 * 0.8**2, 0.5 * 0.9**2, 0.5 * 4.0]
    assert value_loss(values, old, returns, 0.2).tolist() == pytest.approx(expected)
    plain = [0, 0.5 * 0.9**2, 2]
    assert value_loss(values, old, returns, None).tolist() == pytest.approx(plain)


def by_hand() -> tuple[PolicyOutput, Rollout, Targets]:
    rollout = replace(
        make_rollout([2, 1]),
        logp=torch.tensor([[-1.0, -2.0], [-1.0, 0.0]]),
        values=torch.tensor([[0.0, 0.0], [1.0, 0.0]]),
    )
    output = PolicyOutput(
        logp=torch.tensor([[-1.0, -2.0 + math.log(1.5)], [-1.0 + math.log(0.5), 0.0]]),
        values=torch.tensor([[1.0, 0.1], [1.0, 0.0]]),
        entropy=torch.tensor([[1.0, 2.0], [4.0, 9.0]]),
    )
    targets = Targets(
        advantages=torch.tensor([[1.0, 2.0], [-1.0, 9.0]]),
        returns=torch.tensor([[1.0, 1.0], [3.0, 9.0]]),
    )
    return output, rollout, targets


def test_field_B26_loss_and_every_metric_by_hand() -> None:
    output, rollout, targets = by_hand()
    loss = PPO(value_coef=0.5, entropy_coef=0.01).loss(output, rollout, targets, NO_STATE)
    policy = -1 - 2 * 1.2 + 0.8
    value = 0.5 * 0.8**2 + 0.5 * 0.9**2 + 0.5 * 4
    assert loss.total.item() == pytest.approx(policy + 0.5 * value - 0.01 * 7)
    expected = {
        "ppo/policy_loss": policy,
        "value/loss": value,
        "value/clip_fraction": 1.0,
        "ppo/entropy": 7.0,
        "ppo/ratio_mean": 1 + 1.5 + 0.5,
        "ppo/clip_fraction": 2.0,
        "ppo/approx_kl": (0.5 - math.log(1.5)) + (-0.5 - math.log(0.5)),
    }
    assert {n: x.item() for n, x in loss.sums.items()} == pytest.approx(expected)


def test_responses_alike_by_hand() -> None:
    output, rollout, targets = by_hand()
    algorithm = PPO(value_coef=0.5, entropy_coef=0.01, aggregation=Aggregation.sequence_mean)
    loss = algorithm.loss(output, rollout, targets, NO_STATE)
    policy = (-1 - 2 * 1.2) / 2 + 0.8
    value = (0.5 * 0.8**2 + 0.5 * 0.9**2) / 2 + 0.5 * 4
    entropy = (1 + 2) / 2 + 4
    assert loss.total.item() == pytest.approx(policy + 0.5 * value - 0.01 * entropy)
    assert algorithm.denominator(rollout.response_mask) == 2
    assert PPO().denominator(rollout.response_mask) == 3
    assert loss.sums["ppo/policy_loss"].item() == pytest.approx(-1 - 2 * 1.2 + 0.8)  # by token


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_a_row_without_tokens_counts_for_nothing(aggregation: Aggregation) -> None:
    rollout = make_rollout([3, 0, 2])
    algorithm, rows = PPO(aggregation=aggregation), torch.tensor([0, 2])
    output, targets = output_of(rollout), targets_of(rollout)
    whole = algorithm.loss(output, rollout, targets, NO_STATE)
    less = algorithm.loss(output[rows], rollout[rows], targets[rows], NO_STATE)
    assert whole.total.item() == pytest.approx(less.total.item())
    mask = rollout.response_mask
    assert algorithm.denominator(mask) == algorithm.denominator(mask[rows])
    row = torch.tensor([1])
    empty = algorithm.loss(output[row], rollout[row], targets[row], NO_STATE)
    assert empty.total.item() == 0 and algorithm.denominator(mask[1:2]) == 0


def test_clipped_tokens_get_no_gradient() -> None:
    rollout = replace(make_rollout([2]), logp=torch.tensor([[-2.0, -2.0]]))
    logp = leaf(torch.tensor([[-2.0 + math.log(1.5), -2.0 + math.log(1.5)]]))
    zeros = torch.zeros(1, 2)
    targets = Targets(advantages=torch.tensor([[1.0, -1.0]]), returns=zeros)
    output = PolicyOutput(logp=logp, values=leaf(zeros), entropy=leaf(zeros))
    total = PPO().loss(output, rollout, targets, NO_STATE).total
    assert gradients(output, total)["logp"][0].tolist() == pytest.approx([0, 1.5])


def test_papers_S4_the_identity_ends_where_the_clip_binds() -> None:
    rollout = make_rollout([4, 1, 3])
    targets, moved = targets_of(rollout), output_of(rollout, shift=1.0)
    total = PPO(value_coef=0.0).loss(moved, rollout, targets, NO_STATE).total
    assert not torch.allclose(gradients(moved, total)["logp"], -targets.advantages, atol=1e-2)


def test_mean_ratio_above_the_threshold_is_skipped() -> None:
    rollout = make_rollout([2, 1])
    far = PolicyOutput(
        logp=rollout.logp + math.log(11), values=rollout.values, entropy=torch.zeros(2, 2)
    )
    loss = PPO().loss(far, rollout, targets_of(rollout), NO_STATE)
    tokens = int(mask_of([2, 1]).sum())
    means = {name: value.item() / tokens for name, value in loss.sums.items()}
    assert PPO().decide(means) is Decision.skip
    assert PPO(ratio_threshold=12.0).decide(means) is Decision.take
    assert PPO(ratio_threshold=None).decide(means) is Decision.take
    kl = 10 - math.log(11)
    assert PPO(kl_stop=kl - 0.01).decide(means) is Decision.stop  # which is more than to skip
    assert PPO(kl_stop=kl + 0.01).decide(means) is Decision.skip


def test_fields_of_whitening() -> None:
    assert PPO().whiten is Whiten.unbiased


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gamma", 1.1),
        ("gamma", -0.1),
        ("lam", 2.0),
        ("clip", 0.0),
        ("clip", 1.0),
        ("value_clip", 0.0),
        ("value_coef", -1.0),
        ("entropy_coef", -1.0),
        ("ratio_threshold", 1.0),
        ("kl_stop", 0.0),
        ("batch_size", 0),
        ("samples_per_prompt", 0),
        ("samples_per_prompt", 3),
        ("epochs", 0),
        ("minibatches", 0),
        ("minibatches", 17),
        ("reward_clip", 0.0),
        ("reward_clip", -5.0),
        ("score_clip", 0.0),
        ("missing_eos_penalty", -1.0),
        ("normalise_samples", 1),
        ("lam", float("nan")),
    ],
)
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.{field} = {value}: must"):
        PPO(**{field: value})

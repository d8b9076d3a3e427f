"""The clipped losses, their gradients, and their independence of what is masked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import make_rollout, mask_of
from tokencredit.algorithms.ppo import PPO, policy_loss, value_loss
from tokencredit.errors import UserError
from tokencredit.rollout import PolicyOutput, Rollout, Targets


def test_clipped_objective_by_hand() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    loss = policy_loss(ratio.log(), advantages, 0.2)
    assert (-loss).tolist() == pytest.approx([1.2, 0.5, -1.5, -0.8, 2.2])


def test_clipped_value_loss_by_hand() -> None:
    values, old = torch.tensor([1.0, 0.1, 2.0]), torch.tensor([0.0, 0.0, 1.9])
    returns = torch.tensor([1.0, 1.0, 0.0])
    # moved to 0.2, 0.1, 2.0; the worse of both squares counts
    expected = [0.5 * 0.8**2, 0.5 * 0.9**2, 0.5 * 4.0]
    assert value_loss(values, old, returns, 0.2).tolist() == pytest.approx(expected)
    plain = [0, 0.5 * 0.9**2, 2]
    assert value_loss(values, old, returns, None).tolist() == pytest.approx(plain)


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def output_of(rollout: Rollout, shift: float = 0.1, fill: float = 0.0) -> PolicyOutput:
    """What a policy a little further on would say; `fill` stands where nothing counts."""
    mask = rollout.response_mask
    wave = shift * torch.sin(torch.arange(mask.numel()).float()).view(mask.shape)
    return PolicyOutput(
        logp=leaf(torch.where(mask, rollout.logp + wave, fill)),
        values=leaf(torch.where(mask, rollout.values - wave, fill)),
        entropy=leaf(torch.where(mask, 1 + wave, fill)),
    )


def targets_of(rollout: Rollout, fill: float = 0.0) -> Targets:
    mask = rollout.response_mask
    wave = torch.cos(torch.arange(mask.numel()).float()).view(mask.shape)
    return Targets(
        advantages=torch.where(mask, wave, fill), returns=torch.where(mask, 2 * wave, fill)
    )


FULL = PPO(entropy_coef=0.01)


def test_loss_by_hand() -> None:
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
    loss = PPO(value_coef=0.5, entropy_coef=0.01).loss(output, rollout, targets)
    policy = -1 - 2 * 1.2 + 0.8
    value = 0.5 * 0.8**2 + 0.5 * 0.9**2 + 0.5 * 4
    assert loss.sums["ppo/policy_loss"].item() == pytest.approx(policy)
    assert loss.sums["value/loss"].item() == pytest.approx(value)
    assert loss.sums["ppo/entropy"].item() == pytest.approx(7)
    assert loss.total.item() == pytest.approx(policy + 0.5 * value - 0.01 * 7)
    assert loss.sums["ppo/ratio_mean"].item() == pytest.approx(1 + 1.5 + 0.5)
    assert loss.sums["ppo/clip_fraction"].item() == 2
    kl = (0.5 - math.log(1.5)) + (-0.5 - math.log(0.5))
    assert loss.sums["ppo/approx_kl"].item() == pytest.approx(kl)


def test_papers_S4_first_gradient_is_that_of_the_policy_gradient() -> None:
    rollout = make_rollout([4, 1, 3])
    targets = targets_of(rollout)
    output = output_of(rollout, shift=0.0)
    loss = PPO(value_coef=0.0).loss(output, rollout, targets)
    loss.total.backward()
    assert output.logp.grad is not None
    assert torch.allclose(output.logp.grad, -targets.advantages)
    moved = output_of(rollout, shift=1.0)  # later the clip binds, and the identity ends
    PPO(value_coef=0.0).loss(moved, rollout, targets).total.backward()
    assert moved.logp.grad is not None
    assert not torch.allclose(moved.logp.grad, -targets.advantages, atol=1e-2)


def test_clipped_tokens_get_no_gradient() -> None:
    rollout = replace(make_rollout([2]), logp=torch.tensor([[-2.0, -2.0]]))
    logp = leaf(torch.tensor([[-2.0 + math.log(1.5), -2.0 + math.log(1.5)]]))
    zeros = torch.zeros(1, 2)
    targets = Targets(advantages=torch.tensor([[1.0, -1.0]]), returns=zeros)
    output = PolicyOutput(logp=logp, values=zeros, entropy=zeros)
    PPO().loss(output, rollout, targets).total.backward()
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx([0, 1.5])


def everything(rollout: Rollout, fill: float) -> dict[str, Tensor]:
    mask = rollout.response_mask
    dirty = replace(
        rollout,
        logp=torch.where(mask, rollout.logp, fill),
        ref_logp=torch.where(mask, rollout.ref_logp, fill),
        values=torch.where(mask, rollout.values, fill),
    )
    output = output_of(rollout, fill=fill)
    loss = FULL.loss(output, dirty, targets_of(rollout, fill))
    loss.total.backward()
    shaped = FULL.shape(torch.where(mask, 0.5, fill), dirty, 0.2)
    targets = FULL.targets(dirty, torch.where(mask, shaped, fill))
    grads = {name: getattr(output, name).grad for name in ("logp", "values", "entropy")}
    return {
        "total": loss.total.detach(),
        **loss.sums,
        **grads,
        "shaped": shaped,
        "advantages": targets.advantages,
        "returns": targets.returns,
    }


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 1e9])
def test_field_B13_poison_moves_no_bit_of_loss_gradient_or_metric(poison: float) -> None:
    rollout = make_rollout([4, 1, 3], width=6)
    clean, dirty = everything(rollout, 0.0), everything(rollout, poison)
    for name, value in clean.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, dirty[name]), name


def test_field_B13_the_poison_is_strong_enough() -> None:
    rollout = make_rollout([4, 1, 3], width=6)
    wrong = replace(rollout, response_mask=torch.ones_like(rollout.response_mask))
    output = output_of(rollout, fill=float("nan"))
    assert FULL.loss(output, wrong, targets_of(rollout)).total.isnan()


def test_field_B16_halves_sum_to_the_whole() -> None:
    rollout = make_rollout([9, 1, 3, 2])
    targets = targets_of(rollout)

    def gradient(parts: list[Tensor]) -> tuple[float, Tensor]:
        output = output_of(rollout)
        total = torch.zeros(())
        tokens = int(rollout.response_mask.sum())
        for rows in parts:
            loss = FULL.loss(output[rows], rollout[rows], targets[rows])
            total = total + loss.total / tokens
        total.backward()
        assert output.logp.grad is not None
        return total.item(), output.logp.grad

    whole = gradient([torch.arange(4)])
    halves = gradient([torch.arange(2), torch.arange(2, 4)])
    singles = gradient([torch.tensor([i]) for i in range(4)])
    for part in (halves, singles):
        assert part[0] == pytest.approx(whole[0], abs=1e-6)
        assert torch.allclose(part[1], whole[1], atol=1e-7)


def test_field_B16_a_mean_of_means_is_another_number() -> None:
    rollout = make_rollout([9, 1])
    targets, output = targets_of(rollout), output_of(rollout)
    whole = FULL.loss(output, rollout, targets).total / 10
    means = [
        FULL.loss(output[rows], rollout[rows], targets[rows]).total / int(rollout.lengths[rows])
        for rows in (torch.tensor([0]), torch.tensor([1]))
    ]
    assert abs(whole.item() - (means[0] + means[1]).item() / 2) > 1e-2


@pytest.mark.parametrize("extra", [1, 50])
def test_papers_S3_padding_changes_no_loss(extra: int) -> None:
    lengths = [4, 1, 3]
    narrow, wide = make_rollout(lengths), make_rollout(lengths, width=4 + extra)
    first = FULL.loss(output_of(narrow), narrow, targets_of(narrow))

    def widened(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, extra), value=float("nan"))

    output, targets = output_of(narrow), targets_of(narrow)
    second = FULL.loss(
        PolicyOutput(
            logp=widened(output.logp),
            values=widened(output.values),
            entropy=widened(output.entropy),
        ),
        wide,
        Targets(advantages=widened(targets.advantages), returns=widened(targets.returns)),
    )
    assert torch.allclose(first.total, second.total, atol=1e-6)
    for name, value in first.sums.items():
        assert torch.allclose(value, second.sums[name], atol=1e-6), name


def test_mean_ratio_above_the_threshold_is_skipped() -> None:
    rollout = make_rollout([2, 1])
    mask = mask_of([2, 1])
    far = PolicyOutput(
        logp=rollout.logp + math.log(11), values=rollout.values, entropy=torch.zeros(2, 2)
    )
    loss = PPO().loss(far, rollout, targets_of(rollout))
    assert PPO().skips(loss, int(mask.sum()))
    assert not PPO(ratio_threshold=12.0).skips(loss, int(mask.sum()))
    assert not PPO(ratio_threshold=None).skips(loss, int(mask.sum()))


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
        ("batch_size", 0),
        ("epochs", 0),
        ("minibatches", 0),
        ("minibatches", 17),
        ("reward_clip", 0.0),
        ("reward_clip", -5.0),
        ("lam", float("nan")),
    ],
)
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.{field} = {value}: must"):
        PPO(**{field: value})

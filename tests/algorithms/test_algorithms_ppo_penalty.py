"""The slides' Algorithm 4: a penalty on the KL to the old policy, doubled and halved."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from batches import gradients, output_of, targets_of
from builders import make_rollout
from tokencredit.algorithms.losses import kl_new_old, kl_old_new
from tokencredit.algorithms.ppo_penalty import Direction, Penalty, PPOPenalty
from tokencredit.errors import UserError
from tokencredit.rollout import PolicyOutput, Targets


@pytest.mark.parametrize("seed", range(4))
def test_both_directions_are_unbiased_under_the_old_policy_and_never_negative(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    new, old = torch.randn(2, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    moved = new - old
    forward, backward = kl_new_old(moved), kl_old_new(moved)
    exact = (new.exp() * (new - old)).sum(), (old.exp() * (old - new)).sum()
    assert torch.allclose((old.exp() * forward).sum(), exact[0])
    assert torch.allclose((old.exp() * backward).sum(), exact[1])
    assert (forward >= 0).all() and (backward >= 0).all()
    assert not torch.allclose(exact[0], exact[1], rtol=1e-2)  # so that the names can be mixed up
    assert Direction.new_old.per_token(moved).equal(forward)
    assert Direction.old_new.per_token(moved).equal(backward)


@pytest.mark.parametrize(
    ("direction", "kl"),
    [
        (Direction.new_old, 1.5 * math.log(1.5) - 0.5),
        (Direction.old_new, 0.5 - math.log(1.5)),
    ],
)
def test_loss_by_hand(direction: Direction, kl: float) -> None:
    rollout = replace(make_rollout([1]), logp=torch.tensor([[-1.0]]), values=torch.zeros(1, 1))
    output = PolicyOutput(
        logp=torch.tensor([[-1.0 + math.log(1.5)]]),
        values=torch.tensor([[0.1]]),
        entropy=torch.tensor([[2.0]]),
    )
    targets = Targets(advantages=torch.tensor([[3.0]]), returns=torch.tensor([[1.0]]))
    algorithm = PPOPenalty(penalty=Penalty(direction=direction), value_coef=0.5)
    loss = algorithm.loss(output, rollout, targets, {"penalty/coef": 4.0})
    value = 0.5 * 0.9**2
    assert loss.total.item() == pytest.approx(-1.5 * 3 + 4 * kl + 0.5 * value)
    assert loss.sums["penalty/kl"].item() == pytest.approx(kl)
    assert loss.sums["ppo/policy_loss"].item() == pytest.approx(-4.5)
    assert algorithm.final_kl(output, rollout)["penalty/final_kl"].item() == pytest.approx(kl)


def test_ratio_is_not_clipped() -> None:
    rollout = make_rollout([3, 2])
    output, targets = output_of(rollout, shift=1.0), targets_of(rollout)
    loss = PPOPenalty(value_coef=0.0).loss(output, rollout, targets, {"penalty/coef": 0.0})
    ratio = (output.logp - rollout.logp).exp().detach()
    assert torch.allclose(gradients(output, loss.total)["logp"], -ratio * targets.advantages)


@pytest.mark.parametrize(
    ("kl", "coef"), [(0.015, 2.0), (0.0149, 1.0), (0.01 / 1.5, 0.5), (0.0067, 1.0)]
)
def test_papers_slides_coefficient_by_hand(kl: float, coef: float) -> None:
    algorithm = PPOPenalty()
    state = algorithm.initial_state()
    assert state == {"kl/coef": 0.2, "penalty/coef": 1.0}
    after = algorithm.next_state(state, {"kl/k1": 6.0, "penalty/final_kl": kl}, 16)
    assert after == {"kl/coef": 0.2, "penalty/coef": coef}


def test_papers_slides_exclusive_bounds_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokencredit.algorithms import ppo_penalty

    def exclusive(coef: float, kl: float, target: float) -> float:
        return 2 * coef if kl > 1.5 * target else coef / 2 if kl < target / 1.5 else coef

    monkeypatch.setattr(ppo_penalty, "doubled_or_halved", exclusive)
    found = [
        PPOPenalty().next_state(
            {"kl/coef": 0.2, "penalty/coef": 1.0}, {"kl/k1": 6.0, "penalty/final_kl": kl}, 16
        )["penalty/coef"]
        for kl in (0.015, 0.01 / 1.5)
    ]
    assert found == [1.0, 1.0]


@pytest.mark.parametrize("field", ["coef", "target"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.penalty\.{field} = "):
        Penalty(**{field: value})

"""RTO in exact terms: what its rewards are maximised by, and that DPO finds the rewards it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdp_gradients import loss_gradient
from tabular_lm import preferences, tabular_lm, tokenizer_of
from token_mdp import TabularPolicy, TokenMDP
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.kl import Controller, KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.models.log_ratio import LogRatio, as_it_is
from tokencredit.models.passes.computation import Computation
from tokencredit.rewards.implicit import DPPO, RTO, Implicit, SemiRTO
from tokencredit.rollout import Judgement
from tokencredit.settings import DPO
from tokencredit.stages.dpo import judged_pairs, loss_settings, margins, pair_trainer
from tokencredit.stages.trainer import train, trainer_settings

CASES = [TokenMDP(), TokenMDP(eos=0), TokenMDP(eos=2, prompts=2)]
every_mdp = pytest.mark.parametrize("mdp", CASES, ids=lambda m: f"eos_{m.eos}-prompts_{m.prompts}")
BETA = 0.4


def exact_dpo(mdp: TokenMDP) -> tuple[Tensor, Tensor]:
    """A reference, and the optimum that DPO finds for random scores with β = 0.4."""
    reference, scores = mdp.random(1), mdp.token_rewards(4).sum(dim=1)
    return reference, mdp.optimum(reference, scores, BETA)


def paid(mdp: TokenMDP, scheme: Implicit, reference: Tensor, dpo: Tensor) -> Tensor:
    """(N, T) rewards of all responses."""
    rollout = mdp.rollout(reference, reference, reference[:, 0])
    ratios = mdp.logp(dpo) - mdp.logp(reference)
    judgement = Judgement(scores=torch.zeros(len(ratios)), evidence=ratios)
    return scheme.token_rewards(rollout, judgement)


@every_mdp
def test_papers_B7_the_dpo_model_maximises_the_objective_at_equal_beta(mdp: TokenMDP) -> None:
    reference, dpo = exact_dpo(mdp)
    rewards = paid(mdp, RTO(scale=BETA), reference, dpo)
    best = dpo.clone().requires_grad_()
    value = mdp.regularised(best, reference, rewards, BETA)
    assert value.item() == pytest.approx(0, abs=1e-12)  # −β KL(π ‖ π_dpo)
    (gradient,) = torch.autograd.grad(value, best)
    assert gradient.abs().max() < 1e-12
    for seed in range(8):
        other = dpo + mdp.random(seed, scale=0.3)
        there = mdp.regularised(other, reference, rewards, BETA)
        assert there.item() == pytest.approx(-BETA * mdp.kl(other, dpo).item())
        assert there < -1e-4


@every_mdp
def test_papers_B7_with_other_betas_the_optimum_is_elsewhere(mdp: TokenMDP) -> None:
    """It is π_ref (π_dpo / π_ref)^(β1 / β2): further from the reference for β1 > β2."""
    reference, dpo = exact_dpo(mdp)
    rewards = paid(mdp, RTO(scale=0.6), reference, dpo)
    elsewhere = mdp.optimum(reference, rewards.sum(dim=1), 0.3)
    value = mdp.regularised(elsewhere, reference, rewards, 0.3)
    assert value > mdp.regularised(dpo, reference, rewards, 0.3) + 1e-3
    assert mdp.kl(elsewhere, reference) > mdp.kl(dpo, reference)


PLAIN = PPO(
    lam=1.0,
    whiten=Whiten.none,
    value_coef=0.0,
    kl=KLPenalty(coef=BETA, controller=Controller.fixed),
)


@every_mdp
def test_papers_B7_ppo_has_no_gradient_at_the_dpo_model(mdp: TokenMDP) -> None:
    reference, dpo = exact_dpo(mdp)
    there = TabularPolicy(mdp, dpo, mdp.random(3)[:, 0], reference)
    rewards = paid(mdp, RTO(scale=BETA), reference, dpo)
    assert loss_gradient(PLAIN, there, rewards).abs().max() < 1e-6
    start = TabularPolicy(mdp, reference, mdp.random(3)[:, 0], reference)
    uphill = loss_gradient(PLAIN, start, rewards)
    assert uphill.abs().max() > 1e-3
    moved = reference - 0.1 * uphill
    before, after = (mdp.regularised(x, reference, rewards, BETA) for x in (reference, moved))
    assert after > before


@every_mdp
def test_delayed_and_sentence_rewards_have_the_same_objective(mdp: TokenMDP) -> None:
    reference, dpo = exact_dpo(mdp)
    dense = paid(mdp, RTO(scale=BETA), reference, dpo)
    for scheme in (DPPO(scale=BETA), SemiRTO(scale=BETA)):
        sparse = paid(mdp, scheme, reference, dpo)
        other = mdp.random(7)
        values = [mdp.regularised(other, reference, r, BETA) for r in (dense, sparse)]
        assert values[0].item() == pytest.approx(values[1].item())
        assert not torch.allclose(dense, sparse, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("eos", [None, 0])
def test_dpo_on_exact_preferences_recovers_the_rewards_token_by_token(
    eos: int | None, tmp_path: Path
) -> None:
    """β log π_dpo / π_ref is β log π* / π_ref, from which scores differ by a constant alone."""
    mdp, beta = TokenMDP(eos=eos), 0.5
    reference, scores = mdp.random(1), mdp.token_rewards(4).sum(dim=1)
    pairs = preferences(mdp, scores, copies=40)
    settings = DPO(
        learning_rate=0.2,
        batch_size=len(pairs) // 20,
        beta=beta,
        warmup_fraction=0.0,
        max_grad_norm=100.0,
    )
    frozen = tabular_lm(mdp, reference)
    trainer = pair_trainer(
        tabular_lm(mdp, reference),
        frozen,
        tokenizer_of(mdp),
        pairs,
        trainer_settings(settings, tmp_path, 0, True, 150) | loss_settings(settings),
    )
    train(trainer, "dpo")
    ratio = LogRatio(as_it_is(trainer.model), as_it_is(frozen), Computation(), 0)
    found = beta * ratio(mdp.rollout(reference, reference, reference[:, 0]))
    best = mdp.optimum(reference, scores, beta)
    expected = beta * (mdp.logp(best) - mdp.logp(reference))
    spread = expected[mdp.mask].max() - expected[mdp.mask].min()
    error = (found - expected).abs()[mdp.mask].mean()
    assert error < 0.02 * spread
    start = expected.abs()[mdp.mask].mean()  # before training the log-ratios are zero
    assert start > 0.1 * spread
    logits = margins(ratio, pairs[:200], beta)
    won = torch.sigmoid(logits).mean()
    assert judged_pairs(logits)["margin"] == pytest.approx(float(logits.mean()))
    assert won > 0.5


def test_preferences_are_counted_as_bradley_and_terry_expect() -> None:
    mdp = TokenMDP(eos=0)
    scores = mdp.token_rewards(4).sum(dim=1)
    pairs = preferences(mdp, scores, copies=40)
    assert len(pairs) == 40 * 15 * 14 // 2
    first, second = (mdp.ids[row][mdp.mask[row]].tolist() for row in (0, 1))
    won = sum(p.chosen_ids == first and p.rejected_ids == second for p in pairs)
    lost = sum(p.chosen_ids == second and p.rejected_ids == first for p in pairs)
    assert won + lost == 40
    assert won / 40 == pytest.approx(float(torch.sigmoid(scores[0] - scores[1])), abs=1 / 80)

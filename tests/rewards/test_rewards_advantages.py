"""Advantage schemes: what evidence makes of advantages, and that the penalty is never lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from builders import make_prompts, make_rollout, tiny_actors
from mdp_gradients import every_mdp, expected_loss_gradient, policy_of, return_slope
from token_mdp import TokenMDP
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.kl import Controller, Estimator, KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.reinforce import Baseline, Reinforce
from tokencredit.algorithms.scores import Normalise
from tokencredit.commands.check_scheme import check_scheme
from tokencredit.composing.chosen import chosen, composed
from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError
from tokencredit.ops import keep, whiten
from tokencredit.rewards.advantage_schemes import AdvantageScheme, Hindsight, Keep, Own
from tokencredit.rewards.scheme import Evidence
from tokencredit.rl.payer import Reshaper
from tokencredit.rollout import Judgement, Rollout

PLAIN = Reinforce(baseline=Baseline.none, batch_size=4)
OWN = ["reward_scheme=rto", "advantage_scheme=own"]


def reshaper(scheme: AdvantageScheme) -> Reshaper:
    config = composed([])
    config.advantage_scheme = scheme
    return Reshaper(config)


def changed(
    scheme: AdvantageScheme,
    algorithm: Algorithm,
    rollout: Rollout,
    evidence: Tensor,
    coef: float = 0.0,
) -> Tensor:
    """The advantages of a step whose token rewards are 1."""
    state = {**algorithm.initial_state(), "kl/coef": coef}
    shaped = algorithm.shape(torch.ones_like(evidence), rollout, state)
    judgement = Judgement(scores=torch.ones(len(rollout)), evidence=evidence)
    change = reshaper(scheme).change(rollout, judgement, shaped, 0)
    return algorithm.targets(rollout, shaped, change).advantages


def test_keep_is_the_identity_to_the_bit() -> None:
    rollout = replace(make_rollout([3, 1, 5, 2]), groups=torch.tensor([0, 0, 1, 1]))
    evidence = torch.zeros(rollout.response_mask.shape)
    for kind in COMPONENTS["algorithm"]:
        if not issubclass(kind, Algorithm):
            continue
        algorithm = replace(kind(), batch_size=4, samples_per_prompt=2)
        state = algorithm.initial_state()
        baseline = torch.ones(4) if algorithm.responses_beside() else None
        shaped = algorithm.shape(torch.ones_like(evidence), rollout, state, baseline)
        judgement = Judgement(scores=torch.ones(4), evidence=evidence)
        change = reshaper(Keep()).change(rollout, judgement, shaped, 0)
        without = algorithm.targets(rollout, shaped)
        assert torch.equal(
            algorithm.targets(rollout, shaped, change).advantages, without.advantages
        )


def test_own_by_hand() -> None:
    """e = (½, −¼, 2) and log π − log π_ref = (1, 2, −1) at a coefficient of ½: (0, −1¼, 2½)."""
    rollout = make_rollout([3])
    rollout = replace(
        rollout,
        logp=torch.tensor([[-1.0, -1.0, -2.0]]),
        ref_logp=torch.tensor([[-2.0, -3.0, -1.0]]),
    )
    found = changed(Own(), PLAIN, rollout, torch.tensor([[0.5, -0.25, 2.0]]), coef=0.5)
    assert found.tolist() == [[0.0, -1.25, 2.5]]


@pytest.mark.parametrize("scheme", [Own(), Hindsight()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("estimator", list(Estimator), ids=lambda e: e.value)
def test_the_penalty_is_never_lost(estimator: Estimator, scheme: AdvantageScheme) -> None:
    """Every estimate, at the coefficients of an adaptive controller; with the KL in the loss 0."""
    penalty = KLPenalty(
        estimator=estimator, controller=Controller.adaptive, target=6.0, horizon=100
    )
    rollout = make_rollout([2, 4])
    full = keep(torch.rand(rollout.response_mask.shape), rollout.response_mask)
    rollout = replace(rollout, full_kl=full)
    algorithm = replace(PLAIN, kl=penalty, batch_size=2)
    evidence = keep(torch.randn(rollout.response_mask.shape), rollout.response_mask)
    state = algorithm.initial_state()
    coefs = [state["kl/coef"], algorithm.next_state(state, {"kl/k1": 40.0}, 50)["kl/coef"]]
    assert coefs[1] > coefs[0] > 0
    free = changed(scheme, algorithm, rollout, evidence, 0.0)
    for coef in coefs:
        found = changed(scheme, algorithm, rollout, evidence, coef)
        assert torch.allclose(found, free - coef * penalty.per_token(rollout), atol=1e-6)
        assert not torch.equal(found, free)


def test_advantages_are_changed_before_whitening() -> None:
    rollout = make_rollout([2, 4])
    evidence = keep(torch.randn(rollout.response_mask.shape), rollout.response_mask)
    found = changed(Own(), PPO(whiten=Whiten.unbiased), rollout, evidence)
    assert torch.allclose(found, whiten(evidence, rollout.response_mask))


@every_mdp
def test_exact_advantages_alone_give_the_exact_gradient(mdp: TokenMDP) -> None:
    """REINFORCE without baseline: Σ_t A_t ∇ log π, in the mean over all responses, is ∇ J."""
    policy, rewards = policy_of(mdp), mdp.token_rewards(4)
    rollout = policy.roll_out()
    exact = mdp.advantages(policy.logits.detach(), rewards)
    evidence = keep(exact[mdp.states, mdp.ids], mdp.mask).float()
    algorithm = replace(PLAIN, batch_size=len(rollout))
    state = {**algorithm.initial_state(), "kl/coef": 0.0}
    shaped = algorithm.shape(torch.zeros_like(evidence), rollout, state)
    judgement = Judgement(scores=torch.zeros(len(rollout)), evidence=evidence)
    change = reshaper(Own()).change(rollout, judgement, shaped, 0)
    targets = algorithm.targets(rollout, shaped, change)
    weights = mdp.probability(policy.logits.detach())
    gradient = expected_loss_gradient(algorithm, policy, rollout, targets, weights)
    assert torch.allclose(-gradient, return_slope(policy, rewards), atol=1e-5)


@pytest.mark.parametrize(
    ("good", "score", "expected"),
    [(0.8, 1.0, 0.3125), (0.3, 1.0, -0.833333), (0.8, 0.0, 0.0), (0.3, 2.0, -1.666667)],
)
def test_hindsight_by_hand(good: float, score: float, expected: float) -> None:
    """π = ½ for two tokens after which the outcome is good with .8 and .3: h(· | good) = good / 1.1.

    Weighed by the chance of the outcome the two are .8 × .3125 = ¼ and .3 × −.8333 = −¼.
    """
    rollout = make_rollout([1])
    evidence = torch.tensor([[good / 1.1 / 0.5]]).log()
    algorithm = replace(PLAIN, batch_size=1)
    state = algorithm.initial_state() | {"kl/coef": 0.0}
    shaped = algorithm.shape(torch.ones(1, 1), rollout, state)
    judgement = Judgement(scores=torch.tensor([score]), evidence=evidence)
    change = reshaper(Hindsight()).change(rollout, judgement, shaped, 0)
    found = algorithm.targets(rollout, shaped, change).advantages
    assert float(found) == pytest.approx(expected, abs=1e-6)


@every_mdp
def test_exact_hindsight_gives_the_exact_gradient(mdp: TokenMDP) -> None:
    """A response ends well with probability σ(score). Given that it did, h = π Q / V, and the mean
    of (1 − π / h) ∇ log π over responses and outcomes is ∇ P(well)."""
    policy = policy_of(mdp)
    logits = policy.logits.detach()
    well = torch.sigmoid(mdp.token_rewards(4).sum(dim=1))
    rewards = mdp.last_reward(well)
    ahead = mdp.action_values(logits, rewards) / mdp.values(logits, rewards)[:, None]
    evidence = keep(ahead[mdp.states, mdp.ids].log(), mdp.mask).float()
    rollout = policy.roll_out()
    algorithm = replace(PLAIN, batch_size=len(rollout))
    state = algorithm.initial_state() | {"kl/coef": 0.0}
    shaped = algorithm.shape(torch.zeros_like(evidence), rollout, state)
    judgement = Judgement(scores=torch.ones(len(rollout)), evidence=evidence)
    change = reshaper(Hindsight()).change(rollout, judgement, shaped, 0)
    targets = algorithm.targets(rollout, shaped, change)
    weights = mdp.probability(logits) * well
    gradient = expected_loss_gradient(algorithm, policy, rollout, targets, weights)
    assert torch.allclose(-gradient, return_slope(policy, rewards), atol=1e-5)


@pytest.mark.parametrize("kind", COMPONENTS["advantage_scheme"], ids=lambda kind: kind.__name__)
def test_every_scheme_keeps_the_promises(kind: type[AdvantageScheme]) -> None:
    found = check_scheme(kind())
    assert "returns float32 of shape (B, T)" in found and "ignores NaN in masked slots" in found
    assert "sums to the score" not in found and "measures finite numbers by name" not in found


@dataclass(slots=True, kw_only=True)
class Spoilt(Own):
    """Own, with a fault."""

    fault: ClassVar[Callable[[Tensor, Rollout], Tensor]]

    def token_advantages(
        self,
        rollout: Rollout,
        judgement: Judgement,
        advantages: Tensor,
        penalty: Tensor,
        entropies: Tensor | None,
    ) -> Tensor:
        found = Own.token_advantages(self, rollout, judgement, advantages, penalty, entropies)
        return type(self).fault(found, rollout)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda x, _: x[:, :1], "returns float32 of shape"),
        (lambda x, _: x + 1, "found an advantage behind the end of response"),
        (lambda x, r: keep(x / 0, r.response_mask), "finite"),
        (lambda x, _: x.clone().requires_grad_(), "needs no gradient"),
    ],
)
def test_a_broken_promise_is_refused(fault: Callable[[Tensor, Rollout], Tensor], said: str) -> None:
    kind = type("Broken", (Spoilt,), {"__slots__": (), "fault": staticmethod(fault)})
    rollout = make_rollout([2, 4])
    evidence = keep(torch.randn(rollout.response_mask.shape), rollout.response_mask)
    with pytest.raises(UserError, match=f"advantage_scheme = Broken.*step 0.*{said}"):
        changed(kind(), PLAIN, rollout, evidence)
    with pytest.raises(UserError, match=said):
        check_scheme(kind())


def test_evidence_is_read_only_where_declared() -> None:
    space = {"__slots__": (), "evidence": Evidence.none, "fault": staticmethod(lambda x, _: x)}
    kind = type("Sly", (Spoilt,), space)
    rollout = make_rollout([2])
    with pytest.raises(UserError, match=r"reads judgement\.evidence; declare it"):
        changed(kind(), PLAIN, rollout, torch.ones(1, 2))


def test_entropies_are_there_where_declared() -> None:
    """H of the distribution that a token was sampled from; None for a scheme that does not ask."""
    actors = tiny_actors("llama")
    prompts = make_prompts([2, 3], max_new=4, min_new=4)
    assert actors.roll_out(prompts, ("entropy",)).entropy is None
    actors.entropies = True
    rollout = actors.roll_out(prompts, ("entropy",))
    with torch.no_grad():
        expected = actors.policy(rollout).entropy
    assert rollout.entropy is not None and torch.allclose(rollout.entropy, expected, atol=1e-6)
    assert bool((rollout.entropy[rollout.response_mask] > 0).all())
    seen: list[Tensor | None] = []

    def note(x: Tensor, r: Rollout) -> Tensor:
        seen.append(r.entropy)
        return x

    space = {"__slots__": (), "fault": staticmethod(note), "reads_entropy": True}
    kind = type("Reading", (Spoilt,), space)
    changed(kind(), PLAIN, rollout, keep(torch.ones(2, 4), rollout.response_mask))
    assert seen[0] is not None and torch.equal(seen[0], rollout.entropy)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (["model.value.kind=none"], r"model\.value\.kind = 'none': PPO estimates advantages from"),
        (["advantage_scheme=own"], "judge = 'AttentionJudge': gives nonnegative evidence, but Own"),
        (["reward_scheme=sparse", "advantage_scheme=own"], "Own needs signed evidence"),
        ([*OWN, "algorithm.reward_clip=1"], r"algorithm\.reward_clip = 1.0: changes token rewards"),
        ([*OWN, "algorithm.missing_eos_penalty=1"], r"algorithm\.missing_eos_penalty = 1.0"),
        ([*OWN, "algorithm.normalise=return_std"], r"algorithm\.normalise"),
        (
            [*OWN, "model.value.kind=none", "algorithm.value_warmup=2"],
            r"algorithm\.value_warmup = 2: must be 0 with model\.value\.kind=none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(choices: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        composed(choices)


def test_what_fits() -> None:
    free = composed([*OWN, "model.value.kind=none"])
    assert isinstance(free.advantage_scheme, Own) and not free.uses_values
    assert not composed(["algorithm=reinforce", "model.value.kind=none"]).uses_values
    assert composed(OWN).uses_values
    assert isinstance(composed([]).advantage_scheme, Keep)
    assert composed([*OWN, "algorithm.normalise=reference"]).policy_algorithm.normalise is (
        Normalise.reference
    )


def test_an_advantage_scheme_is_part_of_the_name() -> None:
    assert chosen(OWN).config.run.scheme == "rto_own"
    assert chosen(["advantage_scheme=keep", "reward_scheme=rto"]).config.run.scheme == "rto"


def test_ppo_without_values_has_no_value_loss() -> None:
    actors = tiny_actors("llama")
    actors.policy.computation = replace(actors.policy.computation, uses_values=False)
    rollout = actors.roll_out(make_prompts([2, 3], max_new=4, min_new=4), ("free",))
    algorithm, evidence = PPO(), keep(torch.ones(2, 4), rollout.response_mask)
    state = algorithm.initial_state()
    shaped = algorithm.shape(evidence, rollout, state)
    judgement = Judgement(scores=torch.ones(2), evidence=evidence)
    change = reshaper(Own()).change(rollout, judgement, shaped, 0)
    output = actors.policy(rollout)
    loss = algorithm.loss(output, rollout, algorithm.targets(rollout, shaped, change), state)
    assert output.values is None and not [name for name in loss.sums if name.startswith("value/")]
    assert "ppo/policy_loss" in loss.sums

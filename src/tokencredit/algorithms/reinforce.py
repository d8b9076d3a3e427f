"""Policy gradients without a value function: REINFORCE and RLOO."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.algorithms.advantages import GroupBaseline, over_group, rloo, to_go
from tokencredit.algorithms.algorithm import Algorithm, Shaped, State
from tokencredit.algorithms.losses import Term
from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


@dataclass(slots=True, kw_only=True)
class PolicyGradient(Algorithm):
    """−A log π for every token, with A from the rewards alone; one step on a rollout by default."""

    uses_values: ClassVar[bool] = False

    epochs: int = 1
    """Passes over the rollout in one step. A second one is off policy, and nothing corrects it."""
    minibatches: int = 1
    """Optimizer steps of one pass."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()

    @abstractmethod
    def advantages(self, rollout: Rollout, shaped: Shaped) -> Float[torch.Tensor, "B T"]:
        """The weight of each token's log-probability, before whitening."""

    def estimate(self, rollout: Rollout, shaped: Shaped) -> Targets:
        """Advantages, and returns to go for the log."""
        returns = to_go(shaped.total, rollout.response_mask, self.gamma)
        return Targets(advantages=self.advantages(rollout, shaped), returns=returns)

    def terms(
        self, output: PolicyOutput, rollout: Rollout, targets: Targets, state: State
    ) -> list[Term]:
        """−A log π."""
        mask = rollout.response_mask
        loss = -keep(output.logp, mask) * keep(targets.advantages, mask)
        return [Term("ppo/policy_loss", loss, 1.0)]


class Baseline(str, Enum):
    """What REINFORCE subtracts from the return to go of every token."""

    none = "none"
    batch = "batch"
    """The mean return to go of the step's other responses at the same index, whatever their
    prompts; behind its end, a response keeps its last one."""
    running = "running"
    """The mean return of earlier steps, recent ones weighing more."""


@dataclass(slots=True, kw_only=True)
class Reinforce(PolicyGradient):
    """A_t = G_t − b with G_t = Σ_{u ≥ t} γ^(u−t) (r_u − penalty_u) (Williams 1992).

    With a sparse reward, γ = 1, and no penalty, G_t is the score for every token: the published
    form. No action of a response changes its b, so b adds no bias.
    """

    baseline: Baseline = Baseline.batch
    """none, batch, or running."""
    baseline_decay: float = number(0.9, at_least=0, below=1)
    """Weight of the past in the running mean, a step."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()
        require(
            self.baseline is not Baseline.batch or self.batch_size >= 2,
            "algorithm.baseline",
            self.baseline.value,
            "needs algorithm.batch_size >= 2; use running, or none",
        )

    def initial_state(self) -> State:
        """The KL coefficient, the running mean, and the steps in it."""
        state = PolicyGradient.initial_state(self)
        if self.baseline is Baseline.running:
            state |= {"reinforce/baseline": 0.0, "reinforce/steps": 0.0}
        return state

    def next_state(self, state: State, measured: dict[str, float], responses: int) -> State:
        """Also the running mean Σ_k d^k G_k / Σ_k d^k of the steps' mean returns, d the decay."""
        after = PolicyGradient.next_state(self, state, measured, responses)
        if self.baseline is Baseline.running:
            steps, decay = state["reinforce/steps"] + 1, self.baseline_decay
            share = (1 - decay) / (1 - decay**steps)
            mean = state["reinforce/baseline"]
            mean += share * (measured["reward/return"] - mean)
            after |= {"reinforce/baseline": mean, "reinforce/steps": steps}
        return after

    def shape(
        self,
        rewards: Float[torch.Tensor, "B T"],
        rollout: Rollout,
        state: State,
        baseline: Float[torch.Tensor, "B"] | None = None,
    ) -> Shaped:
        """As everywhere; the running mean, which is of shaped rewards already, is the baseline."""
        shaped = PolicyGradient.shape(self, rewards, rollout, state)
        if self.baseline is not Baseline.running:
            return shaped
        mean = torch.full_like(shaped.rewards[:, 0], state["reinforce/baseline"])
        return replace(shaped, baseline=mean)

    def advantages(self, rollout: Rollout, shaped: Shaped) -> Float[torch.Tensor, "B T"]:
        """G_t − b."""
        mask = rollout.response_mask
        returns = to_go(shaped.total, mask, self.gamma)
        if self.baseline is Baseline.batch:
            everybody = torch.zeros_like(rollout.groups)
            return over_group(returns, mask, everybody, GroupBaseline.to_go, others=True)
        if shaped.baseline is None:
            return returns
        return keep(returns - shaped.baseline[:, None], mask)


@dataclass(slots=True, kw_only=True)
class RLOO(PolicyGradient):
    """A_t = G_t − the mean G_t of the prompt's other responses (Ahmadian et al. 2024).

    G_t = Σ_{u ≥ t} γ^(u−t) (r_u − penalty_u). With a sparse reward, γ = 1, and no penalty this is
    the published form; with token rewards, and with the penalty, a token is not credited with what
    came before it. No action of a response changes its b, so b adds no bias.
    """

    samples_per_prompt: int = 4
    """Responses to each prompt; batch_size is a multiple of it."""
    group_baseline: GroupBaseline = GroupBaseline.to_go
    """to_go, or total: the others' mean return to go at the same index, or their mean return."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()
        check_group(self)

    def advantages(self, rollout: Rollout, shaped: Shaped) -> Float[torch.Tensor, "B T"]:
        """G_t − b."""
        mask, groups, kind = rollout.response_mask, rollout.groups, self.group_baseline
        return rloo(shaped.total, mask, groups, gamma=self.gamma, kind=kind)


def check_group(algorithm: Algorithm) -> None:
    """Raise unless every prompt gets responses that can be compared."""
    require(
        algorithm.samples_per_prompt >= 2,
        "algorithm.samples_per_prompt",
        algorithm.samples_per_prompt,
        "must be >= 2: a response is compared with others to the same prompt",
    )

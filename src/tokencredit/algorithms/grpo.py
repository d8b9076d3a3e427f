"""Group relative policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tokencredit.algorithms.advantages import GroupBaseline, grpo, to_go
from tokencredit.algorithms.algorithm import Algorithm, Shaped, State
from tokencredit.algorithms.kl import Controller, KLPenalty
from tokencredit.algorithms.losses import Aggregation, Term, log_ratio, outside_by, policy_loss
from tokencredit.algorithms.reinforce import check_group
from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.ops import k3, keep
from tokencredit.rollout import PolicyOutput, Rollout, Targets


@dataclass(slots=True, kw_only=True)
class GRPO(Algorithm):
    """Clipped ratios; advantages from a group of responses to one prompt (Shao et al. 2024).

    A_t = (G_t − mean_t) / sd with G_t = Σ_{u ≥ t} γ^(u−t) (r_u − penalty_u), the group's mean at
    the same index, and the largest of the group's (unbiased) standard deviations at any index; 0
    where the group does not differ. With a sparse reward, γ = 1, and no penalty G_t is the score
    for every token: the published form. The KL to the reference is a term of the loss, not of the
    reward, unless kl.coef is set too.
    """

    uses_values: ClassVar[bool] = False

    samples_per_prompt: int = 4
    """Responses to each prompt; batch_size is a multiple of it."""
    aggregation: Aggregation = Aggregation.sequence_mean
    """token_mean, or sequence_mean (the mean of each response, then the mean of these)."""
    kl: KLPenalty = field(default_factory=lambda: KLPenalty(coef=0.0, controller=Controller.fixed))
    clip: float = number(0.2, above=0, below=1)
    """The ratio is clipped to 1 ± clip."""
    divide_by_sd: bool = True
    """Divide by the group's standard deviation; without, prompts that are easy or hopeless do not
    weigh more than others (Liu et al. 2025)."""
    group_baseline: GroupBaseline = GroupBaseline.to_go
    """to_go, or total: the group's mean return to go at the same index, or its mean return (without
    divide_by_sd, as it says nothing of what is left)."""
    kl_loss_coef: float = number(0.04, at_least=0)
    """Weight of the k3 estimate of the KL to the reference in the loss; 0 turns it off."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()
        check_group(self)
        require(
            self.group_baseline is GroupBaseline.to_go or not self.divide_by_sd,
            "algorithm.group_baseline",
            self.group_baseline.value,
            "with algorithm.divide_by_sd=true a token reward already paid would be divided by a "
            "deviation near 0; use to_go, which is the same for sparse rewards",
        )

    def estimate(self, rollout: Rollout, shaped: Shaped) -> Targets:
        """Advantages within groups, and returns to go for the log."""
        mask = rollout.response_mask
        returns = to_go(shaped.total, mask, self.gamma)
        advantages = grpo(
            shaped.total,
            mask,
            rollout.groups,
            gamma=self.gamma,
            kind=self.group_baseline,
            divide_by_sd=self.divide_by_sd,
        )
        return Targets(advantages=advantages, returns=returns)

    def terms(
        self, output: PolicyOutput, rollout: Rollout, targets: Targets, state: State
    ) -> list[Term]:
        """−min(ρ A, clip(ρ, 1 ± ε) A) + kl_loss_coef × k3."""
        mask = rollout.response_mask
        moved = log_ratio(output, rollout)
        loss = policy_loss(moved, keep(targets.advantages, mask), self.clip)
        kl = k3(keep(output.logp, mask), keep(rollout.ref_logp, mask))
        return [
            Term("ppo/policy_loss", loss, 1.0),
            Term("ppo/clip_fraction", outside_by(moved.detach().expm1(), self.clip)),
            Term("grpo/kl", kl, self.kl_loss_coef or None),
        ]

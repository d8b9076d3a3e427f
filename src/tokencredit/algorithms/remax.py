"""ReMax: REINFORCE with the greedy response's reward as the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from tokencredit.algorithms.advantages import to_go
from tokencredit.algorithms.algorithm import Shaped
from tokencredit.algorithms.asking import Asking
from tokencredit.algorithms.reinforce import PolicyGradient
from tokencredit.algorithms.scores import pay_last
from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.ops import masked_sum
from tokencredit.rollout import Rollout


@dataclass(slots=True, kw_only=True)
class ReMax(PolicyGradient):
    """A_t = −penalty_t + Σ_{u ≥ t} γ^(u−t+1) r'_u (Li et al. 2024).

    r' is the reward with its last token changed so that the response's sum is R = clip(Σ_t r_t −
    baseline, ± return_clip); the baseline is the reward of the greedy response to the same prompt.
    With a sparse reward this is the published G_t = −c KL_t + γ^(n−t) R: the last action is already
    discounted once, and a token pays for its own KL alone. A missing-end penalty is the sampled
    response's only.
    """

    return_clip: float | None = number(5.0, above=0, null="")
    """R is clipped to this magnitude, after the baseline is subtracted; null: not at all."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range, or that do not fit one another."""
        self.check()
        require(
            self.reward_clip is None,
            "algorithm.reward_clip",
            self.reward_clip,
            "would clip the sampled response and not the greedy one; use return_clip or score_clip",
        )

    def observe(self, rollout: Rollout, ask: Asking) -> Float[torch.Tensor, "B"]:
        """The total reward of the greedy response to each row's prompt."""
        every = self.samples_per_prompt
        first = ask.prompts[torch.arange(0, len(ask.prompts), every)]
        said, judgement = ask.policy(first, "greedy", greedy=True)
        totals = masked_sum(ask.token_rewards(said, judgement), said.response_mask)
        return totals.repeat_interleave(every)

    def responses_beside(self) -> int:
        """One for each prompt."""
        return self.batch_size // self.samples_per_prompt

    def advantages(self, rollout: Rollout, shaped: Shaped) -> Float[torch.Tensor, "B T"]:
        """The coefficient of each token's log-probability.

        Raises ValueError without a baseline.
        """
        if shaped.baseline is None:
            raise ValueError("ReMax needs the reward of the greedy response to each prompt")
        mask = rollout.response_mask
        totals = masked_sum(shaped.rewards, mask)
        wanted = totals - shaped.baseline
        if self.return_clip is not None:
            wanted = wanted.clamp(-self.return_clip, self.return_clip)
        rewards = pay_last(shaped.rewards, mask, wanted - totals)
        return self.gamma * to_go(rewards, mask, self.gamma) - shaped.penalty

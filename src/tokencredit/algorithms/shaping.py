"""From scores and token rewards to the rewards that an algorithm learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float

from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.scores import (
    REFERENCE_SD,
    Normalise,
    clip_scores,
    cut_off,
    normalise_scores,
    reference_scores,
    return_sd,
)
from tokencredit.fields import Settings, number
from tokencredit.ops import keep
from tokencredit.rollout import Batch, Judgement, Rollout

State = dict[str, float]
"""What an algorithm remembers from step to step, by metric name; logged, and kept on resume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped(Batch):
    """Rewards as the learner sees them, all parts zero where masked."""

    rewards: Float[torch.Tensor, "B T"]
    """The scheme's token rewards, clipped or scaled if asked."""
    penalty: Float[torch.Tensor, "B T"]
    """kl_coef × KL_t, to be subtracted."""
    baseline: Float[torch.Tensor, "B"] | None = None
    """What the whole response is compared with, for algorithms that do so: the total reward of the
    greedy response to the same prompt, or a running mean."""

    @property
    def total(self) -> Float[torch.Tensor, "B T"]:
        """rewards − penalty."""
        return self.rewards - self.penalty


@dataclass(slots=True, kw_only=True)
class Shaping(Settings):
    """Normalises, clips, and penalises; knows nothing of advantages."""

    normalise: Normalise = Normalise.none
    """none, reference (scores in units of the reference's), or return_std (rewards in units of the
    batch's)."""
    normalise_samples: int = number(128, at_least=2)
    """Responses of the reference that are scored before the first step (normalise=reference)."""
    score_clip: float | None = number(None, above=0, null="")
    """Scores are clipped to this magnitude before the scheme sees them; null: not at all."""
    reward_clip: float | None = number(None, above=0, null="")
    """Token rewards are clipped to this magnitude before the KL penalty; null: not at all."""
    missing_eos_penalty: float | None = number(None, above=0, null="")
    """Subtracted from the last token's reward where the length limit ended a response; null: no."""
    kl: KLPenalty = field(default_factory=KLPenalty)

    def check(self) -> None:
        """Raise for numbers out of range, or that do not fit one another."""
        Settings.__post_init__(self)

    def prepared(self, state: State, scores: Callable[[int], Float[torch.Tensor, "N"]]) -> State:
        """The state with which the first step begins.

        `scores(n)` are those of n responses of the reference; they are asked for where scores are
        to be in units of theirs, and not known yet.
        """
        if self.normalise is not Normalise.reference or REFERENCE_SD in state:
            return state
        return {**state, **reference_scores(scores(self.normalise_samples))}

    def scaled(self, judgement: Judgement, state: State) -> Judgement:
        """The judgement with its scores as a scheme is to spread them."""
        return replace(judgement, scores=self.paid_scores(judgement.scores, state))

    def paid_scores(
        self, scores: Float[torch.Tensor, "B"], state: State
    ) -> Float[torch.Tensor, "B"]:
        """Scores as a scheme is to spread them: normalised, then clipped."""
        if self.normalise is Normalise.reference:
            scores = normalise_scores(scores, state)
        return clip_scores(scores, self.score_clip)

    def shape(
        self,
        rewards: Float[torch.Tensor, "B T"],
        rollout: Rollout,
        state: State,
        baseline: Float[torch.Tensor, "B"] | None = None,
    ) -> Shaped:
        """Rewards as the learner sees them: scaled, clipped, less for a missing end, in this order.

        `baseline` is scaled with them.
        """
        mask = rollout.response_mask
        rewards = keep(rewards.float(), mask)
        if self.normalise is Normalise.return_std:
            sd = return_sd(rewards, mask)
            rewards, baseline = rewards / sd, None if baseline is None else baseline / sd
        if self.reward_clip is not None:
            rewards = rewards.clamp(-self.reward_clip, self.reward_clip)
        if self.missing_eos_penalty is not None:
            rewards = rewards - self.missing_eos_penalty * cut_off(mask, rollout.finished).float()
        return Shaped(
            rewards=rewards,
            penalty=state["kl/coef"] * self.kl.per_token(rollout),
            baseline=baseline,
        )

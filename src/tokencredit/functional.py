"""Schemes, estimators, and losses as plain functions of tensors.

B responses, T tokens, padded on the right. `mask` is True where a token counts; what stands in
other slots is never read, and results are 0 there. Rewards, values, and log-probabilities of token
t belong to the action that emitted it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float

from tokencredit.algorithms.advantages import gae, grpo, rloo, to_go
from tokencredit.algorithms.losses import kl_new_old, kl_old_new, policy_loss, value_loss
from tokencredit.errors import UserError
from tokencredit.ops import k1, k3, masked_mean, pair_loss, whiten
from tokencredit.rewards.redistribute import shares
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rl.payer import Payer
from tokencredit.rollout import Judgement, Prompts, Rollout
from tokencredit.surface.asked import Asked

__all__ = (
    "gae",
    "grpo",
    "k1",
    "k3",
    "kl_new_old",
    "kl_old_new",
    "masked_mean",
    "pair_loss",
    "policy_loss",
    "rloo",
    "shares",
    "to_go",
    "token_rewards",
    "value_loss",
    "whiten",
)


def token_rewards(
    scheme: str | RewardScheme,
    scores: Float[torch.Tensor, "B"],
    mask: Bool[torch.Tensor, "B T"],
    *,
    evidence: Float[torch.Tensor, "B T"] | None = None,
    ends: Bool[torch.Tensor, "B T"] | None = None,
    overrides: Sequence[str] = (),
) -> Float[torch.Tensor, "B T"]:
    """The rewards by which a scheme spreads scores over tokens.

    `scheme` is an option of reward_scheme (`tokencredit train --help`) with `KEY=VALUE` overrides,
    or a component. `evidence` is what a judge says of each token, for schemes that read it: weights
    (abc), or signed numbers (attribution, rto); `ends` where sentences end (semi_rto).
    """
    named = "sparse" if isinstance(scheme, RewardScheme) else scheme
    config = Asked(scheme=named, overrides=overrides).config()
    if isinstance(scheme, RewardScheme):
        config.reward_scheme, config.run.scheme = scheme, ""  # no judge has to fit it here
    reads = config.reward_scheme.evidence
    name = type(config.reward_scheme).__name__
    if reads is not Evidence.none and evidence is None:
        raise UserError(f"evidence: is missing; {name} reads {reads.value} evidence of each token")
    if config.reward_scheme.reads_ends and ends is None:
        raise UserError(f"ends: is missing; {name} pays where sentences end")
    nothing = torch.zeros(mask.shape, device=mask.device)
    whole = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    asked = Prompts.padded([[0]] * len(mask), 0).to(mask.device)
    rollout = Rollout.blank(asked, nothing.long(), mask, finished=whole, stopped=~whole)
    judgement = Judgement(
        scores=scores, evidence=nothing if evidence is None else evidence, ends=ends
    )
    return Payer(config).pay(rollout, judgement, 0)

"""Generalised advantage estimation over response tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokencredit.ops import keep


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Advantages and returns, both (B, T) and zero where masked (Schulman et al. 2016, eq. 16).

    δ_t = r_t + γ V_{t+1} − V_t, A_t = δ_t + γ λ A_{t+1}, return_t = A_t + V_t. The value after the
    last token is 0. Response tokens must be right-padded.
    """
    rewards, values = keep(rewards, mask), keep(values, mask)
    steps = rewards.shape[1]
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0]) if steps else rewards.new_zeros(len(rewards))
    next_value = following
    for t in range(steps - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = keep(delta + gamma * lam * following, mask[:, t])
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, keep(advantages + values, mask)

"""From token rewards to advantages: with values, with a group of responses, or with neither."""

from __future__ import annotations

from enum import Enum
from typing import Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.ops import keep, last_token, whiten

ROUNDING: Final = 1e-5
"""Share of a return's size below which differences are those of float32 sums."""


class Whiten(str, Enum):
    """How advantages are normalised: over all counting tokens of the whole rollout, once."""

    none = "none"
    unbiased = "unbiased"
    """(A − mean) / √(Σ(A − mean)² / (n − 1) + 1e-8)."""
    biased = "biased"
    """(A − mean) / √max(Σ(A − mean)² / n, 1e-8)."""

    def applied(
        self, advantages: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
    ) -> Float[torch.Tensor, "B T"]:
        """The advantages, normalised as this says."""
        if self is Whiten.none:
            return advantages
        return whiten(advantages, mask, unbiased=self is Whiten.unbiased)


class GroupBaseline(str, Enum):
    """What of a prompt's other responses a token's return to go is compared with.

    With a sparse reward, γ = 1, and no penalty both are their mean score: the published form.
    """

    to_go = "to_go"
    """Their mean return to go at the same index; behind its end, a response keeps its last one."""
    total = "total"
    """Their mean return, the same for every token. With dense rewards little is left late in a
    response, which this takes for failure: more noise, though no bias."""


def gae(
    rewards: Float[torch.Tensor, "B T"],
    values: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B T"]]:
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


def to_go(
    rewards: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"], gamma: float
) -> Float[torch.Tensor, "B T"]:
    """G_t = Σ_{u ≥ t} γ^(u−t) r_u, zero where masked.

    An action cannot change what was paid before it, unless the scheme looks at the whole response,
    as redistribution does; then G_t leaves that part out, with every algorithm.
    """
    nothing = torch.zeros_like(rewards)
    return gae(rewards, nothing, mask, gamma=gamma, lam=1.0)[0]


def group_sum(
    x: Float[torch.Tensor, "B *S"], groups: Int[torch.Tensor, "B"]
) -> tuple[Float[torch.Tensor, "B *S"], Int[torch.Tensor, "B"]]:
    """For each row, the sum of `x` over the rows of its group, and how many these are."""
    _, index, counts = groups.unique(return_inverse=True, return_counts=True)
    empty = torch.zeros((len(counts), *x.shape[1:]), dtype=x.dtype, device=x.device)
    return empty.index_add(0, index, x)[index], counts[index]


def group_mean(
    x: Float[torch.Tensor, "B *S"], groups: Int[torch.Tensor, "B"], *, others: bool
) -> Float[torch.Tensor, "B *S"]:
    """For each row, the mean of `x` over its group, without the row itself if `others`.

    Raises ValueError for a group of one row: it has nothing to be compared with.
    """
    total, count = group_sum(x, groups)
    if bool((count < 2).any()):
        raise ValueError("a group baseline needs at least two responses to every prompt")
    if others:
        total, count = total - x, count - 1
    return total / count.view(-1, *[1] * (x.dim() - 1))


def group_spread(
    x: Float[torch.Tensor, "B T"], groups: Int[torch.Tensor, "B"]
) -> Float[torch.Tensor, "B 1"]:
    """For each row, the largest (unbiased) standard deviation of any column over its group.

    Infinite where a group differs by no more than rounding, so that nothing is made of that.
    """
    squares, count = group_sum((x - group_mean(x, groups, others=False)).square(), groups)
    sd = (squares / (count - 1)[:, None]).sqrt().amax(dim=1, keepdim=True)
    size = (group_sum(x.square(), groups)[0] / count[:, None]).sqrt().amax(dim=1, keepdim=True)
    return torch.where(sd > ROUNDING * size, sd, torch.inf)


def held(
    returns: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """Returns to go with each response's last one in every slot behind its end."""
    last = keep(returns, last_token(mask)).sum(dim=1, keepdim=True)
    return torch.where(mask, returns, last)


def over_group(
    returns: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
    groups: Int[torch.Tensor, "B"],
    kind: GroupBaseline,
    *,
    others: bool,
) -> Float[torch.Tensor, "B T"]:
    """Returns to go less the group's baseline, zero where masked."""
    compared = returns[:, :1] if kind is GroupBaseline.total else held(returns, mask)
    return keep(returns - group_mean(compared, groups, others=others), mask)


def rloo(
    rewards: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
    groups: Int[torch.Tensor, "B"],
    *,
    gamma: float = 1.0,
    kind: GroupBaseline = GroupBaseline.to_go,
) -> Float[torch.Tensor, "B T"]:
    """Advantages G_t − the mean G_t of the group's other responses (Ahmadian et al. 2024).

    Responses with the same number in `groups` answer the same prompt.
    """
    return over_group(to_go(rewards, mask, gamma), mask, groups, kind, others=True)


def grpo(
    rewards: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
    groups: Int[torch.Tensor, "B"],
    *,
    gamma: float = 1.0,
    kind: GroupBaseline = GroupBaseline.to_go,
    divide_by_sd: bool = True,
) -> Float[torch.Tensor, "B T"]:
    """Advantages (G_t − mean_t) / sd of the group (Shao et al. 2024); see `algorithm=grpo`."""
    returns = to_go(rewards, mask, gamma)
    advantages = over_group(returns, mask, groups, kind, others=False)
    return advantages / group_spread(held(returns, mask), groups) if divide_by_sd else advantages

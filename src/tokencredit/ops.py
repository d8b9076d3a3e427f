"""Pure tensor functions that know about masks. A mask is True where the token counts.

Masked slots may hold anything, NaN included: they are replaced, never multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int

P = ParamSpec("P")
R = TypeVar("R")


def without_gradient(function: Callable[P, R]) -> Callable[P, R]:
    """`function` under `torch.no_grad()`, which in front of it would load torch as it is read."""

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        with torch.no_grad():
            return function(*arguments, **options)

    return called


def keep(x: Float[torch.Tensor, "*S"], mask: Bool[torch.Tensor, "*S"]) -> Float[torch.Tensor, "*S"]:
    """`x` with zeros where the mask is False."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_sum(
    x: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B"]:
    """The sum over counting tokens of each row."""
    return keep(x, mask).sum(dim=1)


def masked_mean(
    x: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, ""]:
    """The mean over all counting tokens; 0 if there are none."""
    return keep(x, mask).sum() / mask.sum().clamp(min=1)


def whiten(
    x: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
    *,
    unbiased: bool = True,
    eps: float = 1e-8,
) -> Float[torch.Tensor, "B T"]:
    """`x` with mean 0 and variance 1 over counting tokens; only centred if fewer than two.

    Unbiased: divided by √(Σ/(n − 1) + eps), as TRL does. Biased: by √max(Σ/n, eps), as OpenRLHF.
    """
    count = mask.sum()
    centred = keep(x - masked_mean(x, mask), mask)
    if count < 2:
        return centred
    squares = centred.square().sum()
    variance = squares / (count - 1) + eps if unbiased else (squares / count).clamp(min=eps)
    return centred * torch.rsqrt(variance)


def last_token(mask: Bool[torch.Tensor, "B T"]) -> Bool[torch.Tensor, "B T"]:
    """One-hot of the last counting token of each row; all False for an empty row."""
    position = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, position, -1).amax(dim=1, keepdim=True)
    return position == last


def gather_logp(
    logits: Float[torch.Tensor, "*S V"], ids: Int[torch.Tensor, "*S"]
) -> tuple[Float[torch.Tensor, "*S"], Float[torch.Tensor, "*S"]]:
    """log softmax(logits) at `ids`, and the entropy in nats; -inf logits count as impossible."""
    logp = torch.log_softmax(logits.float(), dim=-1)
    # The impossible contribute 0; replacing -inf before the product keeps gradients finite.
    entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
    return logp.gather(-1, ids[..., None]).squeeze(-1), entropy


def k1(
    logp: Float[torch.Tensor, "*S"], ref_logp: Float[torch.Tensor, "*S"]
) -> Float[torch.Tensor, "*S"]:
    """The signed estimate log π − log π_ref of the KL divergence; unbiased under π."""
    return logp - ref_logp


def k3(
    logp: Float[torch.Tensor, "*S"], ref_logp: Float[torch.Tensor, "*S"]
) -> Float[torch.Tensor, "*S"]:
    """exp(d) − 1 − d with d = log π_ref − log π: unbiased under π and never negative."""
    d = ref_logp - logp
    return torch.expm1(d) - d


def pair_loss(
    chosen: Float[torch.Tensor, "B"],
    rejected: Float[torch.Tensor, "B"],
    margin: Float[torch.Tensor, "B"] | float = 0.0,
) -> Float[torch.Tensor, ""]:
    """Mean of −log σ(chosen − rejected − margin): Bradley and Terry's likelihood of a preference.

    `margin` is by how much the chosen one should win.
    """
    return -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()


def soft_label_loss(
    log_odds: Float[torch.Tensor, "B T"],
    targets: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
) -> Float[torch.Tensor, "B"]:
    """Mean over the counting tokens of each row of −p log D − (1 − p) log(1 − D), D = σ(log-odds).

    `targets` are the p: 1 for a good token, 0 for a bad one, ½ for one that is neither. It is the
    cross-entropy of a softmax over two logits whose difference the log-odds are. 0 for a row
    without counting tokens.
    """
    odds, wanted = keep(log_odds, mask), keep(targets, mask)
    # −log σ(z) = softplus(z) − z and −log σ(−z) = softplus(z): no exponential overflows.
    losses = torch.nn.functional.softplus(odds) - wanted * odds
    return masked_sum(losses, mask) / mask.sum(dim=1).clamp(min=1)


def edit_loss(
    revised: Float[torch.Tensor, "B"], rejected: Float[torch.Tensor, "B"]
) -> Float[torch.Tensor, ""]:
    """The loss of pairs (Yoon et al. 2024): that of the revised answer plus that of the rejected
    one (`soft_label_loss`), averaged over the pairs. 2 log 2 where all log-odds are 0."""
    return (revised + rejected).mean()


def game_loss(
    predicted: Float[torch.Tensor, "B"], outcomes: Float[torch.Tensor, "B"], *, ties: bool = True
) -> Float[torch.Tensor, ""]:
    """Mean of (r − Σ Â)² over games (Estimating Effects of Tokens in Preference Learning, Eq. 10).

    `predicted` are the sums of a game's advantages, `outcomes` the rewards r of who answers first:
    1 where preferred, −1 where the other one is, 0 for a tie, which counts like any other game, or
    not at all with `ties` False. The paper's Eq. 5 has −1 for a tie too, in both orders, so that
    r(y₁, y₂) = −r(y₂, y₁) fails. 0 where no game is left.
    """
    counted = torch.ones_like(outcomes, dtype=torch.bool) if ties else outcomes != 0
    return keep(outcomes - predicted, counted).square().sum() / counted.sum().clamp(min=1)


def antisymmetry_gap(
    there: Float[torch.Tensor, "B"], back: Float[torch.Tensor, "B"]
) -> Float[torch.Tensor, ""]:
    """Mean of |S(y₁, y₂) + S(y₂, y₁)|: 0 where a game's two orders are each other's opposite."""
    return (there + back).abs().mean()


def figa_terms(
    nll: Float[torch.Tensor, "*S"],
    put_in: Bool[torch.Tensor, "*S"],
    taken_out: Bool[torch.Tensor, "*S"],
    *,
    gate: float | None,
    alpha: float,
    beta: float,
) -> tuple[Float[torch.Tensor, ""], Int[torch.Tensor, ""]]:
    """FIGA's loss (Guo et al. 2024) as two sums: α Σ_{E+} NLL − β Σ_{E−} NLL, and |E+| + |E−|, by
    which it is divided.

    `nll` is −log π of each token, E+ the tokens that a revision put in, E− those that it took out
    and whose `nll` is at most `gate` (None: all of them). All others count nothing, whatever they
    hold. Both sums of a batch are those of its parts, added up.
    """
    liked = liked_of(nll, taken_out, gate)
    loss = alpha * keep(nll, put_in).sum() - beta * keep(nll, liked).sum()
    return loss, put_in.sum() + liked.sum()


def liked_of(
    nll: Float[torch.Tensor, "*S"], tokens: Bool[torch.Tensor, "*S"], gate: float | None
) -> Bool[torch.Tensor, "*S"]:
    """Those of `tokens` whose `nll` is at most `gate`; None: all of them."""
    return tokens if gate is None else tokens & (keep(nll.detach(), tokens) <= gate)

"""What a rollout and its rewards look like, in numbers. Formulas: docs/metrics.md."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float

from tokencredit.ops import k1, k3, keep, last_token, masked_mean, masked_sum
from tokencredit.rollout import Judgement, Rollout, Targets


def describe(
    rollout: Rollout, judgement: Judgement, rewards: Float[torch.Tensor, "B T"], targets: Targets
) -> dict[str, float]:
    """Batch means: scores, rewards, KL, lengths, and where the credit lies."""
    mask = rollout.response_mask
    first, last = credit_ends(rewards, mask)
    values = {
        "score/mean": judgement.scores.mean(),
        "score/std": judgement.scores.std(unbiased=True) if len(rollout) > 1 else torch.zeros(()),
        "judge/sum": masked_sum(judgement.evidence, mask).mean(),
        "reward/mean": masked_sum(rewards, mask).mean(),
        "kl/k1": masked_sum(k1(rollout.logp, rollout.ref_logp), mask).mean(),
        "kl/k3": masked_sum(k3(rollout.logp, rollout.ref_logp), mask).mean(),
        "length/mean": rollout.lengths.float().mean(),
        "length/finished": rollout.finished.float().mean(),
        "credit/entropy": credit_entropy(rewards, mask).mean(),
        "credit/eos_share": eos_share(rewards, rollout).mean(),
        "credit/first_third": first.mean(),
        "credit/last_third": last.mean(),
        "value/mean": masked_mean(rollout.values, mask),
        "value/explained_variance": explained_variance(rollout.values, targets.returns, mask),
    }
    notes = {} if judgement.notes is None else judgement.notes.means()
    return {name: float(value) for name, value in values.items()} | {
        f"judge/{name}": value for name, value in notes.items()
    }


def credit_shares(
    rewards: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """|r_t| / Σ|r|: where the credit of each response lies; zero for a response without any."""
    size = keep(rewards.abs(), mask)
    total = size.sum(dim=1, keepdim=True)
    return torch.where(total > 0, size / total.clamp(min=torch.finfo(size.dtype).tiny), 0.0)


def credit_entropy(
    rewards: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B"]:
    """Entropy of the credit shares in nats: 0 for sparse rewards, log n for uniform ones."""
    share = credit_shares(rewards, mask)
    return -torch.where(share > 0, share * share.clamp(min=1e-38).log(), 0.0).sum(dim=1)


def eos_share(rewards: Float[torch.Tensor, "B T"], rollout: Rollout) -> Float[torch.Tensor, "B"]:
    """The share of the credit on the end token; 0 where a limit or a stop string ended it."""
    ended = rollout.finished & ~rollout.stopped
    at_end = last_token(rollout.response_mask) & ended[:, None]
    return masked_sum(credit_shares(rewards, rollout.response_mask), at_end)


def credit_ends(
    rewards: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> tuple[Float[torch.Tensor, "B"], Float[torch.Tensor, "B"]]:
    """The share of the credit in the first and in the last third of each response.

    Token t of n lies where its middle does, at (t + ½) / n: a single token is in neither third.
    """
    share = credit_shares(rewards, mask)
    length = mask.sum(dim=1, keepdim=True)
    middle = 3 * (2 * torch.arange(mask.shape[1], device=mask.device) + 1)
    return masked_sum(share, middle < 2 * length), masked_sum(share, middle > 4 * length)


def explained_variance(
    values: Float[torch.Tensor, "B T"],
    returns: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
) -> Float[torch.Tensor, ""]:
    """1 − Var(return − value) / Var(return) over counting tokens; 0 if the returns do not vary."""
    v, g = values[mask], returns[mask]
    if len(g) < 2 or g.var() == 0:
        return torch.zeros(())
    return 1 - (g - v).var() / g.var()

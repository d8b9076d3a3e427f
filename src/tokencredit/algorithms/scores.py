"""What becomes of scores before a scheme spreads them, and of token rewards after it."""

from __future__ import annotations

from enum import Enum
from typing import Final

import torch
from jaxtyping import Bool, Float

from tokencredit.errors import UserError
from tokencredit.ops import keep, last_token, masked_sum

REFERENCE_MEAN: Final = "score/reference_mean"
REFERENCE_SD: Final = "score/reference_sd"


class Normalise(str, Enum):
    """How rewards are brought to a scale that does not depend on the scorer."""

    none = "none"
    reference = "reference"
    """Scores less the mean of the reference's scores, in units of their standard deviation."""
    return_std = "return_std"
    """Token rewards in units of the standard deviation of the batch's responses' sums. One divisor
    for a batch, so schemes that preserve the score keep doing so."""


def reference_scores(scores: Float[torch.Tensor, "N"]) -> dict[str, float]:
    """Mean and (unbiased) standard deviation of the reference's scores, by state key.

    Raises UserError where they do not vary: such scores have no scale.
    """
    sd = float(scores.double().std()) if len(scores) > 1 else 0.0
    if not sd > 0:
        raise UserError(
            f"algorithm.normalise = 'reference': the scores of {len(scores)} reference responses "
            "do not vary; raise algorithm.normalise_samples, or use none"
        )
    return {REFERENCE_MEAN: float(scores.double().mean()), REFERENCE_SD: sd}


def normalise_scores(
    scores: Float[torch.Tensor, "B"], state: dict[str, float]
) -> Float[torch.Tensor, "B"]:
    """(R − mean) / sd, with the numbers of `reference_scores` from `state`."""
    return (scores - state[REFERENCE_MEAN]) / state[REFERENCE_SD]


def clip_scores(scores: Float[torch.Tensor, "B"], limit: float | None) -> Float[torch.Tensor, "B"]:
    """Scores clipped to ±limit; unchanged for None."""
    return scores if limit is None else scores.clamp(-limit, limit)


def return_sd(
    rewards: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, ""]:
    """The (unbiased) standard deviation of Σ_t r_t over responses; 1 where they do not vary."""
    totals = masked_sum(rewards, mask)
    one = torch.ones((), dtype=totals.dtype, device=totals.device)
    if len(totals) < 2:
        return one
    sd = totals.std()
    return torch.where(sd > 0, sd, one)


def cut_off(
    mask: Bool[torch.Tensor, "B T"], finished: Bool[torch.Tensor, "B"]
) -> Bool[torch.Tensor, "B T"]:
    """The last token of each response that its length limit ended; the finish reason decides."""
    return last_token(mask) & ~finished[:, None]


def pay_last(
    rewards: Float[torch.Tensor, "B T"],
    mask: Bool[torch.Tensor, "B T"],
    extra: Float[torch.Tensor, "B"],
) -> Float[torch.Tensor, "B T"]:
    """Token rewards with `extra` added to the last token of each response."""
    return rewards + keep(extra[:, None].expand(mask.shape), last_token(mask))

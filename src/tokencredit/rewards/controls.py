"""Controls for credit by attention: what it would do if it knew nothing of the tokens themselves.

Each spreads the score as `Redistribute` does and leaves out one thing that attention may know. What
a control gains over the sparse reward is not owed to the rest of the judge's evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.errors import require
from tokencredit.ops import keep
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout
from tokencredit.streams import permutation, stream_key

TENTHS: Final = 10
"""Parts of a response that a profile has a weight for."""


@dataclass(slots=True, kw_only=True)
class Shuffled(Redistribute):
    """The judge's weights of a response in another order: as uneven as they were, and aimless.

    The order is a hash of the response's ids, so the same response is always paid alike. The judge
    is needed, and read, as without this control.
    """

    def spread_by(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The evidence, permuted among the tokens of each response."""
        evidence, mask = judgement.evidence, rollout.response_mask
        order = torch.arange(mask.shape[1]).repeat(len(mask), 1)
        for row, length in enumerate(rollout.lengths.tolist()):
            ids = rollout.response_ids[row, :length].tolist()
            own = permutation(stream_key("shuffled evidence", *ids), length)
            order[row, :length] = torch.from_numpy(own)
        return evidence.gather(1, order.to(evidence.device))


@dataclass(slots=True, kw_only=True)
class Recency(Redistribute):
    """Weights 2^(−(n − 1 − t) / h) with h = n × `half_life`: the later a token, the more it gets.

    It reads no evidence: any judge will do. With the default the last token gets 16 times the
    weight of one that a whole response lies before it.
    """

    evidence: ClassVar[Evidence] = Evidence.none

    half_life: float = 0.25
    """How far before the end the weight is half that of the last token, as a share of n."""

    def __post_init__(self) -> None:
        """Check β and the half-life."""
        Redistribute.__post_init__(self)
        require(
            0 < self.half_life < math.inf,
            "reward_scheme.half_life",
            self.half_life,
            "must be a number > 0, a share of the response (the larger, the more even)",
        )

    def spread_by(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The weights of each token's place before the end."""
        mask, length = rollout.response_mask, rollout.lengths[:, None]
        behind = length - 1 - torch.arange(mask.shape[1], device=mask.device)
        halvings = behind / (self.half_life * length.clamp(min=1))
        return keep(torch.exp2(-halvings.clamp(min=0)).to(judgement.scores.dtype), mask)


@dataclass(slots=True, kw_only=True)
class Position(Redistribute):
    """Weights by place alone: what the judge gives on average to each tenth of a response.

    `tokencredit profile` measures them on responses of the SFT model and writes them to a file for
    --config-dir. It reads no evidence: any judge will do.
    """

    evidence: ClassVar[Evidence] = Evidence.none

    profile: list[float] = field(default_factory=list)
    """Weight of a token in each tenth of its response, ten numbers in any unit; token t of n lies
    in tenth ⌊10 (t + ½) / n⌋."""

    def __post_init__(self) -> None:
        """Check β, and the profile if there is one."""
        Redistribute.__post_init__(self)
        if self.profile:
            self.check()

    def check(self) -> None:
        """Raise where there are no ten weights."""
        require(
            len(self.profile) == TENTHS
            and all(0 <= weight < math.inf for weight in self.profile)
            and sum(self.profile) > 0,
            "reward_scheme.profile",
            list(self.profile),
            f"must be {TENTHS} weights >= 0, not all 0; `tokencredit profile` with the arguments "
            "of a run whose scheme reads a judge's weights measures them",
        )

    def spread_by(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The weight of each token's tenth."""
        self.check()
        mask = rollout.response_mask
        profile = torch.tensor(self.profile, dtype=judgement.scores.dtype, device=mask.device)
        return keep(profile[tenths(mask)], mask)


def tenths(mask: Bool[torch.Tensor, "B T"]) -> Int[torch.Tensor, "B T"]:
    """⌊10 (t + ½) / n⌋ of each token, in integers; masked slots have a number of 0 to 9 too."""
    length = mask.sum(dim=1, keepdim=True).clamp(min=1)
    middle = TENTHS * (2 * torch.arange(mask.shape[1], device=mask.device) + 1)
    return (middle // (2 * length)).clamp(max=TENTHS - 1)


CONTROLS: Final = (Shuffled, Recency, Position)

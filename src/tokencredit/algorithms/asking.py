"""What an algorithm may have answered beside the rollout: the loop does it, whatever it is for."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float

from tokencredit.rollout import Judgement, Prompts, Rollout


class Asking(Protocol):
    """Further responses of one step, scored, judged, and paid as those of the rollout are."""

    @property
    def prompts(self) -> Prompts:
        """The prompts of the step, one row for each response of the rollout."""

    def policy(
        self, prompts: Prompts, name: str, *, greedy: bool = False
    ) -> tuple[Rollout, Judgement]:
        """What the policy responds now, and the judgement of it.

        `name` is that of the random stream within the step: no two uses may share one. `greedy`:
        the likeliest token each time. Log-probabilities and values are zero unless a judge reads
        them.
        """

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The scheme's rewards, for scores as the algorithm scales them."""

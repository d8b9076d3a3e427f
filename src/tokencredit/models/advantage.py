"""Token advantages in the game of preferences: a low-rank head, centred under a frozen policy."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int

from tokencredit.models.passes.centred import CHUNK, centring_residual, policy_mean
from tokencredit.models.passes.logprob import exactly

RANK: Final = 16
"""Of the paper's head (Table 1)."""


class AdvantageHead(torch.nn.Module):
    """f(s, z) = U_z · (W h(s)), and what is left of it once its mean under a policy is taken off.

    U starts at zero, and so do all advantages.
    """

    def __init__(self, width: int, vocabulary: int, rank: int = RANK) -> None:
        """From hidden states of `width` numbers to `vocabulary` ids, through `rank` numbers."""
        torch.nn.Module.__init__(self)
        self.down = torch.nn.Linear(width, rank, bias=False)
        """W."""
        self.up = torch.nn.Parameter(torch.zeros(vocabulary, rank))
        """U."""

    def projected(self, states: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, "N r"]:
        """W h(s), in the head's own number format."""
        with exactly(states):
            found: torch.Tensor = self.down(states.to(self.down.weight.dtype))
        return found

    def means(
        self,
        states: Float[torch.Tensor, "M d"],
        head: torch.nn.Linear,
        spare: Int[torch.Tensor, "K"] | None = None,
        rows: int = CHUNK,
    ) -> Float[torch.Tensor, "M r"]:
        """Σ_v π(v|s) U_v of the policy with these `states` and this `head`; see `policy_mean`."""
        return policy_mean(self.up, states, head, spare, rows)

    def forward(
        self,
        states: Float[torch.Tensor, "N d"],
        means: Float[torch.Tensor, "N r"],
        ids: Int[torch.Tensor, "N"],
    ) -> Float[torch.Tensor, "N"]:
        """Â(s, z) = (U_z − Σ_v π(v|s) U_v) · (W h(s)) of the ids z chosen in some states."""
        chosen = torch.nn.functional.embedding(ids, self.up)
        return ((chosen - means) * self.projected(states)).sum(dim=1)

    def residual(
        self,
        states: Float[torch.Tensor, "N d"],
        policy: tuple[Float[torch.Tensor, "N d"], torch.nn.Linear],
        spare: Int[torch.Tensor, "K"] | None = None,
        rows: int = CHUNK,
    ) -> Float[torch.Tensor, "N"]:
        """Σ_z π(z|s) Â(s, z) in each state, 0 but for rounding; see `centring_residual`.

        `policy` are the policy's states and its head.
        """
        means = self.means(*policy, spare, rows)
        return centring_residual(self.up, means, self.projected(states), policy, spare, rows)

"""Token advantages in the game of preferences: a low-rank head, centred under a frozen policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float, Int

from tokencredit.models.adapters.lora import check_reference, using
from tokencredit.models.loading.trunk import head_of
from tokencredit.models.passes.centred import CHUNK, centring_residual, policy_mean
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.games import Games
from tokencredit.models.passes.logprob import exactly
from tokencredit.models.passes.packing import Layout, hidden_states
from tokencredit.models.passes.sequences import parts
from tokencredit.ops import masked_sum, without_gradient
from tokencredit.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Chooser = Callable[[Layout], "tuple[torch.Tensor, torch.nn.Linear]"]
"""The states in which a policy chose the response tokens, (N, d), and its head."""
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


class AdvantageModel(torch.nn.Module):
    """Advantages of the tokens of both answers, in the reward of who answers first (Estimating
    Effects of Tokens in Preference Learning, Eq. 9).

    The model without its adapters is the frozen policy; with them, and with the head, it makes the
    advantages.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        head: AdvantageHead,
        computation: Computation | None = None,
        spare: Int[torch.Tensor, "K"] | None = None,
        rows: int = CHUNK,
        *,
        centred: bool = True,
    ) -> None:
        """`model` has adapters, and no dropout below them; else it is a `UserError`, or the policy
        is another in every pass. `spare` are its ids without a token, whose probability is 0. Not
        `centred`, the numbers are f(s, z) as they are, which are no advantages: an ablation."""
        torch.nn.Module.__init__(self)
        check_reference(model)
        self.model, self.head, self.rows, self.centred = model, head, rows, centred
        self.computation = computation or Computation()
        self.register_buffer("spare", spare, persistent=False)
        self.spare: torch.Tensor | None

    @without_gradient
    def policy(self, games: Games) -> tuple[Float[torch.Tensor, "M d"], torch.nn.Linear]:
        """The states in which the frozen policy chooses the answer tokens, and its head."""
        with using(self.model, None):
            states = hidden_states(self.model, games.policy_layout, self.computation)
        return states, head_of(self.model)

    def means(
        self, states: Float[torch.Tensor, "M d"], head: torch.nn.Linear
    ) -> Float[torch.Tensor, "M r"]:
        """What is taken off f in the policy's `states`; see `AdvantageHead.means`."""
        if not self.centred:
            return self.head.up.new_zeros(len(states), self.head.up.shape[1])
        return self.head.means(states, head, self.spare, self.rows)

    def forward(self, games: Games) -> Float[torch.Tensor, "B T"]:
        """Â of every answer token, zero where masked.

        That of a token of the second answer is what it does for the first one: good for the second
        is negative.
        """
        means = self.means(*self.policy(games))
        states = hidden_states(self.model, games.layout, self.computation)
        found = self.head(states, means[games.places], games.chosen)
        return games.layout.spread(found)

    def outcomes(self, games: Games) -> Float[torch.Tensor, "B"]:
        """What the advantages of each game add up to: its expected reward for who answers first."""
        return masked_sum(self.forward(games), games.mask)

    @without_gradient
    def residual(self, games: Games) -> Float[torch.Tensor, "N"]:
        """Σ_z π(z|s) Â(s, z) wherever an answer token was chosen, 0 but for rounding."""
        states, head = self.policy(games)
        own = hidden_states(self.model, games.layout, self.computation)
        policy = states[games.places], head
        means, rows = self.means(*policy), self.head.projected(own)
        return centring_residual(self.head.up, means, rows, policy, self.spare, self.rows)

    @without_gradient
    def own(
        self, rollout: Rollout, current: Chooser | None = None, filler: int = 0
    ) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B T"]]:
        """Â of each response token as of the first answer, which no second one changes, and the
        drift: Σ_z π(z|s) Â(s, z) under the `current` policy, which is 0 while that is the frozen
        one, and without one. Zero where masked. Rows are read a few at a time; padding holds the
        id `filler`.
        """
        shape, device = rollout.response_mask.shape, rollout.response_ids.device
        advantages, drift = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        for rows, _ in parts(rollout.total_lengths):
            part = rollout[rows].trimmed()
            layout, width = Layout.of(part, filler), part.response_mask.shape[1]
            with using(self.model, None):
                policy = hidden_states(self.model, layout, self.computation)
            means = self.means(policy, head_of(self.model))
            states = hidden_states(self.model, layout, self.computation)
            said = self.head(states, means, part.response_ids[part.response_mask])
            advantages[rows, :width] = layout.spread(said).float()
            if current is not None:
                now = self.head.means(*current(layout), self.spare, self.rows)
                gap = ((now - means) * self.head.projected(states)).sum(dim=1)
                drift[rows, :width] = layout.spread(gap).float()
        return advantages, drift

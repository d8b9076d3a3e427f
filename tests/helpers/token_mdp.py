"""A token MDP small enough to list all its responses, so that every expectation is an exact sum.

A state is a prompt and what has been said so far. States of a prompt are numbered like a heap: 0 is
the empty prefix, and token `a` leads from state `s` to `vocabulary * s + a + 1`. Everything is in
double precision, and differentiable in the table of logits (S, V), one row a state.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from tokencredit.ops import keep, last_token
from tokencredit.rollout import PolicyOutput, Rollout
from tokencredit.streams import stream_key, uniforms

FLOAT = torch.float64


class TokenMDP:
    """All responses to `prompts` prompts (equally likely), N in total, T = `length` tokens at most.

    With `eos`, that id ends a response, so lengths vary; without, all have `length` tokens.
    `gamma` discounts returns, values, and advantages; KL divergences are never discounted.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 3,
        length: int = 3,
        eos: int | None = None,
        gamma: float = 1.0,
        prompts: int = 1,
    ) -> None:
        self.vocabulary, self.length, self.eos = vocabulary, length, eos
        self.gamma, self.prompts = gamma, prompts
        self.prefixes = (vocabulary**length - 1) // (vocabulary - 1)
        """States of one prompt."""
        responses = self._responses()
        self.per_prompt = len(responses)
        said = torch.tensor([[*r, *[0] * (length - len(r))] for r in responses])
        lengths = torch.tensor([len(r) for r in responses])
        self.ids = said.repeat(prompts, 1)
        self.mask = (torch.arange(length) < lengths[:, None]).repeat(prompts, 1)
        self.prompt = torch.arange(prompts).repeat_interleave(self.per_prompt)
        self.states = self.states_of(self.prompt, self.ids, self.mask)

    def _responses(self) -> list[tuple[int, ...]]:
        whole = itertools.product(range(self.vocabulary), repeat=self.length)
        cut = (r[: r.index(self.eos) + 1] if self.eos in r else r for r in whole)
        return list(dict.fromkeys(cut))

    def states_of(self, prompt: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) the state in which each token was chosen; 0 where masked."""
        prefix, states = torch.zeros_like(ids[:, 0]), []
        for t in range(ids.shape[1]):
            states.append(prefix + prompt * self.prefixes)
            prefix = self.vocabulary * prefix + ids[:, t] + 1
        return torch.where(mask, torch.stack(states, dim=1), 0)

    def random(self, seed: int, scale: float = 1.0) -> Tensor:
        """(S, V) a table of normal numbers: logits, or rewards of each state and token."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.prompts * self.prefixes, self.vocabulary)
        return scale * torch.randn(shape, generator=generator, dtype=FLOAT)

    def token_rewards(self, seed: int) -> Tensor:
        """(N, T) rewards of state and token. Multiples of 1/64, so that float32 holds them exactly."""
        table = (64 * self.random(seed)).round() / 64
        return keep(table[self.states, self.ids], self.mask)

    def last_reward(self, scores: Tensor) -> Tensor:
        """(N, T) the score (N,) of each whole response, on its last token."""
        return torch.where(last_token(self.mask), scores[:, None], 0.0)

    # What a policy does

    def logp(self, logits: Tensor) -> Tensor:
        """(N, T) log π of every token of every response, zero where masked."""
        return keep(logits.log_softmax(dim=1)[self.states, self.ids], self.mask)

    def probability(self, logits: Tensor) -> Tensor:
        """(N,) of each prompt with its response; they sum to 1."""
        return self.logp(logits).sum(dim=1).exp() / self.prompts

    def greedy(self, logits: Tensor) -> Tensor:
        """(prompts,) the index of the response that takes the likeliest token everywhere."""
        best = (logits.argmax(dim=1)[self.states] == self.ids) | ~self.mask
        return best.all(dim=1).nonzero().squeeze(1)

    def sample(self, logits: Tensor, prompts: Tensor, *stream: int | str) -> Tensor:
        """(B,) indices of responses to the given prompts, drawn by a named random stream."""
        drawn = uniforms(torch.tensor([stream_key(*stream)]), len(prompts))[0]
        table = (self.prompts * self.probability(logits.detach())).view(self.prompts, -1)
        ceiling = table.cumsum(dim=1)[prompts]
        place = (drawn[:, None] > ceiling).sum(dim=1).clamp(max=self.per_prompt - 1)
        return prompts * self.per_prompt + place

    # Returns, values, advantages. Rewards (N, T) may depend on the whole response.

    def to_go(self, rewards: Tensor) -> Tensor:
        """(N, T) Σ_{u ≥ t} γ^(u−t) r_u."""
        out = torch.zeros_like(rewards)
        following = torch.zeros_like(rewards[:, 0])
        for t in reversed(range(self.length)):
            following = rewards[:, t] + self.gamma * following
            out[:, t] = following
        return keep(out, self.mask)

    def expected_return(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """J = E Σ_t γ^t r_t."""
        return (self.probability(logits) * self.to_go(rewards)[:, 0]).sum()

    def action_values(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """(S, V) Q: the mean reward to go of all responses that pick this token in this state."""
        weight = (self.probability(logits)[:, None] * self.mask).flatten()
        place = (self.states * self.vocabulary + self.ids).flatten()
        empty = torch.zeros(self.prompts * self.prefixes * self.vocabulary, dtype=FLOAT)
        total = empty.index_add(0, place, weight * self.to_go(rewards).flatten())
        mass = empty.index_add(0, place, weight)
        return torch.where(mass > 0, total / mass, 0.0).view(-1, self.vocabulary)

    def values(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """(S,) V = Σ_a π(a) Q(a)."""
        return (logits.softmax(dim=1) * self.action_values(logits, rewards)).sum(dim=1)

    def advantages(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """(S, V) A = Q − V."""
        return self.action_values(logits, rewards) - self.values(logits, rewards)[:, None]

    # KL divergence and the objective that it regularises

    def token_kl(self, logits: Tensor, reference: Tensor) -> Tensor:
        """(S,) KL(π ‖ π_ref) of the next token in each state, over the whole vocabulary."""
        difference = logits.log_softmax(dim=1) - reference.log_softmax(dim=1)
        return (logits.softmax(dim=1) * difference).sum(dim=1)

    def kl(self, logits: Tensor, reference: Tensor) -> Tensor:
        """KL(π ‖ π_ref) of whole responses."""
        difference = (self.logp(logits) - self.logp(reference)).sum(dim=1)
        return (self.probability(logits) * difference).sum()

    def regularised(
        self, logits: Tensor, reference: Tensor, rewards: Tensor, beta: float
    ) -> Tensor:
        """J − β KL(π ‖ π_ref)."""
        return self.expected_return(logits, rewards) - beta * self.kl(logits, reference)

    def optimum(self, reference: Tensor, scores: Tensor, beta: float) -> Tensor:
        """(S, V) logits of π* ∝ π_ref exp(score / β), which maximises E score − β KL."""
        weight = self.logp(reference).sum(dim=1) + scores / beta
        return self.logits_of((weight - weight.max()).exp())

    def logits_of(self, weights: Tensor) -> Tensor:
        """(S, V) logits of the policy that says each response (N,) in proportion to its weight."""
        place = (self.states * self.vocabulary + self.ids)[self.mask]
        empty = torch.zeros(self.prompts * self.prefixes * self.vocabulary, dtype=FLOAT)
        mass = empty.index_add(0, place, weights[:, None].expand(self.mask.shape)[self.mask])
        # States behind an end token are never reached; any finite row will do there.
        mass = mass.view(-1, self.vocabulary)
        return torch.where(mass.sum(dim=1, keepdim=True) > 0, mass, 1.0).log()

    # The batches that algorithms see

    def rollout(self, logits: Tensor, reference: Tensor, values: Tensor) -> Rollout:
        """All N responses, as `logits` (S, V) would have said them, with the values (S,)."""
        full = self.token_kl(logits, reference)[self.states]
        rows = torch.arange(len(self.ids))
        cut = last_token(self.mask) & (self.ids != self.eos)
        return Rollout(
            rows=rows,
            groups=self.prompt,
            prompt_ids=self.prompt[:, None],
            prompt_mask=torch.ones(len(rows), 1, dtype=torch.bool),
            response_ids=self.ids,
            response_mask=self.mask,
            min_new=torch.zeros_like(rows),
            finished=~cut.any(dim=1) if self.eos is not None else torch.ones_like(rows) > 0,
            stopped=torch.zeros(len(rows), dtype=torch.bool),
            logp=self.logp(logits).detach(),
            ref_logp=self.logp(reference).detach(),
            values=keep(values[self.states], self.mask).detach(),
            full_kl=keep(full, self.mask).detach(),
        )


class TabularPolicy(nn.Module):
    """One row of logits and one value for each state; speaks as `PolicyWithValue.forward` does."""

    def __init__(
        self, mdp: TokenMDP, logits: Tensor, values: Tensor, reference: Tensor | None = None
    ) -> None:
        super().__init__()
        self.mdp = mdp
        self.logits = nn.Parameter(logits.clone())
        self.state_values = nn.Parameter(values.clone())
        self.reference = logits.clone() if reference is None else reference.clone()

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """Log-probability, value, entropy, and exact KL of every response token."""
        ids, mask = rollout.response_ids, rollout.response_mask
        states = self.mdp.states_of(rollout.prompt_ids[:, -1], ids, mask)
        logp = self.logits.log_softmax(dim=1)
        entropy = -(logp.exp() * logp).sum(dim=1)
        kl = self.mdp.token_kl(self.logits, self.reference)
        return PolicyOutput(
            logp=keep(logp[states, ids], mask),
            values=keep(self.state_values[states], mask),
            entropy=keep(entropy[states], mask),
            full_kl=keep(kl[states], mask),
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Policy and, where it is trained, value, as the engine's optimizer wants them."""
        value = {"value": [self.state_values]} if self.state_values.requires_grad else {}
        return {"policy": [self.logits], **value}

    def roll_out(self) -> Rollout:
        """All responses with what the policy of this moment says of them."""
        return self.mdp.rollout(self.logits, self.reference, self.state_values)

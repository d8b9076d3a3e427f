"""The trained module: a causal language model with a value head, and its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokencredit.models.sampling import LogprobMask, Sampling
from tokencredit.models.sequences import position_ids
from tokencredit.ops import gather_logp
from tokencredit.rollout import PolicyOutput, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids with a meaning of their own."""

    eos: int
    """An action: it ends a response."""
    pad: int
    """Never an action: impossible for policy and reference alike."""


CHUNK = 512
"""Tokens whose logits exist at the same time."""


class PolicyWithValue(nn.Module):
    """π and V on one trunk. Values are read where the action is chosen, its token unseen."""

    def __init__(self, model: PreTrainedModel, ids: SpecialIds, sampling: Sampling) -> None:
        """`model` may carry LoRA adapters; the value head starts at zero."""
        nn.Module.__init__(self)
        self.model = model
        self.ids = ids
        self.sampling = sampling
        self.value_head = nn.Linear(int(model.config.hidden_size), 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """Log-probability, value, and entropy of every response token, with gradient."""
        states = self.states(self.model, rollout)
        logp, entropy = self.logp(self.model, states, rollout)
        values = self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)
        return PolicyOutput(logp=logp, values=values, entropy=entropy)

    def states(self, model: PreTrainedModel, rollout: Rollout) -> Float[Tensor, "B T d"]:
        """The hidden state from which each response token was chosen."""
        ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)[:, :-1]
        mask = torch.cat([rollout.prompt_mask, rollout.response_mask], dim=1)[:, :-1]
        hidden: Tensor = backbone(model)(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=position_ids(mask),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, rollout.prompt_ids.shape[1] - 1 :]

    def logp(
        self, model: PreTrainedModel, states: Float[Tensor, "B T d"], rollout: Rollout
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """log π of the response tokens under the configured distribution, and its entropy.

        Logits exist for one chunk of tokens at a time, in the backward pass too.
        """
        head = model.get_output_embeddings()
        banned = self.eos_banned(rollout).flatten()
        ids, flat = rollout.response_ids.flatten(), states.flatten(0, 1)
        parts = [
            _recomputed(self._chunk, head, *part)
            for part in zip(flat.split(CHUNK), ids.split(CHUNK), banned.split(CHUNK), strict=True)
        ]
        logp, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        return logp.view(rollout.response_ids.shape), entropy.view(rollout.response_ids.shape)

    def eos_banned(self, rollout: Rollout) -> Bool[Tensor, "B T"]:
        """Where the end token was impossible when the response was sampled."""
        shape = rollout.response_ids.shape
        if self.sampling.logprob_mask is LogprobMask.full:
            return torch.zeros(shape, dtype=torch.bool, device=rollout.response_ids.device)
        position = torch.arange(shape[1], device=rollout.response_ids.device)
        return position < rollout.min_new[:, None]

    def _chunk(
        self,
        head: nn.Module,
        states: Float[Tensor, "N d"],
        ids: Int[Tensor, "N"],
        banned: Bool[Tensor, "N"],
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        logits = head(states).float()
        if self.sampling.logprob_mask is LogprobMask.sampling:
            logits = logits / self.sampling.temperature
            vocabulary = torch.arange(logits.shape[1], device=logits.device)
            impossible = (banned[:, None] & (vocabulary == self.ids.eos)) | (
                vocabulary == self.ids.pad
            )
            logits = logits.masked_fill(impossible, -torch.inf)
        logp, entropy = gather_logp(logits, ids)
        # A slot behind the end may hold an impossible id; nothing reads it, but -inf would spread.
        return logp.masked_fill(logp == -torch.inf, 0.0), entropy


class Reference:
    """The frozen policy that KL is measured against: a copy, or the adapters switched off."""

    def __init__(self, policy: PolicyWithValue, frozen: PreTrainedModel | None) -> None:
        """`frozen` is None for a policy with adapters, whose base is the reference."""
        self.policy = policy
        self.frozen = None if frozen is None else frozen.eval().requires_grad_(False)

    @contextmanager
    def model(self) -> Iterator[PreTrainedModel]:
        """The reference model, for as long as the context lasts."""
        if self.frozen is not None:
            yield self.frozen
            return
        with self.policy.model.disable_adapter():
            yield self.policy.model

    @torch.no_grad()
    def logp(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        """log π_ref of the response tokens."""
        with self.model() as model:
            return self.policy.logp(model, self.policy.states(model, rollout), rollout)[0]


def backbone(model: PreTrainedModel) -> Callable[..., Any]:
    """The part of a causal language model below its head."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(plain, plain.base_model_prefix)  # type: ignore[no-any-return]


def _recomputed(
    function: Callable[..., tuple[Tensor, Tensor]], head: nn.Module, *tensors: Tensor
) -> tuple[Tensor, Tensor]:
    """`function` without keeping its logits for the backward pass, if one is needed at all."""
    if not torch.is_grad_enabled():
        return function(head, *tensors)
    return checkpoint(function, head, *tensors, use_reentrant=False)  # type: ignore[no-any-return]

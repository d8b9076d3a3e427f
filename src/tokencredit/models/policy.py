"""The trained module: a causal language model and its value function; and the frozen reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float

from tokencredit.models.adapters.lora import (
    POLICY,
    VALUE,
    belongs_to_value,
    check_reference,
    same_adapter,
    using,
)
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.loading.trunk import checkpoint, head_of, hidden_size, passing
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.logprob import token_kl, token_logp
from tokencredit.models.passes.packing import Layout, hidden_states
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.ops import without_gradient
from tokencredit.rollout import Kept, PolicyOutput, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ValueHead(torch.nn.Linear):
    """A linear value of each state, in float32 at least, whatever the format of its weights."""

    def forward(self, states: Float[torch.Tensor, "*N d"]) -> Float[torch.Tensor, "*N 1"]:
        """The values."""
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        weight, bias = self.weight.to(kind), self.bias.to(kind)
        return torch.nn.functional.linear(states.to(kind), weight, bias)


class PolicyWithValue(torch.nn.Module):
    """π and V. Values are read where the action is chosen, its token unseen.

    V has a trunk of its own (`value_trunk`), or the policy's weights under an adapter of its own,
    or else the policy's hidden states, which the value loss then trains too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids: SpecialIds,
        sampling: Sampling,
        computation: Computation | None = None,
        value_trunk: torch.nn.Module | None = None,
    ) -> None:
        """`model` may carry LoRA adapters, one named "value" too; the value head starts at zero."""
        torch.nn.Module.__init__(self)
        self.model = model
        self.ids = ids
        self.sampling = sampling
        self.computation = computation or Computation()
        self.value_trunk = value_trunk
        self.value_head = ValueHead(hidden_size(value_trunk or model), 1)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.value_head.requires_grad_(self.uses_values)
        head_of(model)

    @property
    def uses_values(self) -> bool:
        """Whether there is a value function to compute and train."""
        return self.computation.uses_values

    @property
    def has_value_adapter(self) -> bool:
        """Whether the value function is the policy's weights under a second adapter."""
        return VALUE in getattr(self.model, "peft_config", {})

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Trainable parameters of "policy", and of "value" if there are values."""
        groups: dict[str, list[torch.nn.Parameter]] = {"policy": [], "value": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                own = name.startswith("value_") or belongs_to_value(name)
                groups["value" if own else "policy"].append(parameter)
        return groups if self.uses_values else {"policy": groups["policy"]}

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """Log-probability, value (if any), and entropy of every response token; else 0."""
        return self.read(self.layout(rollout), rollout)[0]

    def layout(self, rollout: Rollout) -> Layout:
        """The rollout as the models read it."""
        return Layout.of(rollout, self.ids.eos)

    def read(
        self, layout: Layout, rollout: Rollout
    ) -> tuple[PolicyOutput, Float[torch.Tensor, "N d"]]:
        """`forward`, and the policy's hidden states."""
        states = self.states(self.model, layout)
        head, choices, memory = (
            head_of(self.model),
            self.choices(rollout),
            self.computation.logits_memory,
        )
        logp, entropy = passing(
            head, lambda x: token_logp(x, head, choices, memory), self.computation.narrow(states)
        )
        spread = layout.spread
        values = spread(self._values(states, layout)) if self.uses_values else None
        output = PolicyOutput(logp=spread(logp), values=values, entropy=spread(entropy))
        return output, states

    def acting(self) -> AbstractContextManager[None]:
        """While the context lasts, `model` has the policy's adapter on, if it has adapters."""
        adapted = getattr(self.model, "peft_config", None)
        return using(self.model, POLICY) if adapted else nullcontext()

    def states(self, model: torch.nn.Module, layout: Layout) -> Float[torch.Tensor, "N d"]:
        """The hidden state from which each response token was chosen."""
        return hidden_states(model, layout, self.computation)

    def choosing(self, layout: Layout) -> tuple[Float[torch.Tensor, "N d"], torch.nn.Linear]:
        """The states in which the policy, as it is now, chose each response token, and its head."""
        with self.acting():
            return self.states(self.model, layout), head_of(self.model)

    def choices(self, rollout: Rollout) -> Choices:
        """What each response token was chosen from, under the configured distribution."""
        mask, kept = rollout.response_mask, rollout.kept
        ids = rollout.response_ids[mask]
        if self.sampling.logprob_mask is LogprobMask.full:
            return Choices(ids=ids)
        if kept is not None:
            kept = Kept(ids=kept.ids, starts=kept.starts[mask], counts=kept.counts[mask])
        return Choices(
            ids=ids,
            temperature=self.sampling.temperature,
            pad=self.ids.pad if self.ids.pad >= 0 else None,
            spare=self.ids.spare_on(ids.device),
            eos=self.ids.eos,
            other_ends=self.ids.others,
            banned=self.eos_banned(rollout)[mask],
            kept=kept,
        )

    def own_logp(self, model: torch.nn.Module, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """log π of the response tokens in `model`'s own distribution, whatever was sampled from."""
        layout, computation = self.layout(rollout), self.computation
        states = computation.narrow(self.states(model, layout))
        choices = Choices(ids=rollout.response_ids[rollout.response_mask])
        logp, _ = token_logp(states, head_of(model), choices, computation.logits_memory)
        return layout.spread(logp)

    def eos_banned(self, rollout: Rollout) -> Bool[torch.Tensor, "B T"]:
        """Where every end token was impossible when the response was sampled."""
        shape = rollout.response_ids.shape
        if self.sampling.logprob_mask is LogprobMask.full:
            return torch.zeros(shape, dtype=torch.bool, device=rollout.response_ids.device)
        position = torch.arange(shape[1], device=rollout.response_ids.device)
        return position < rollout.min_new[:, None]

    def checkpoint_activations(self) -> None:
        """Recompute the trunks' activations in backward passes, under the adapter of the time."""

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), same_adapter(self.model)

        checkpoint(self.model, contexts if self.has_value_adapter else None)
        if self.value_trunk is not None:
            checkpoint(self.value_trunk)

    def _values(
        self, states: Float[torch.Tensor, "N d"], layout: Layout
    ) -> Float[torch.Tensor, "N"]:
        if self.value_trunk is not None:
            states = self.states(self.value_trunk, layout)
        elif self.has_value_adapter:
            with using(self.model, VALUE):
                states = self.states(self.model, layout)
        values: torch.Tensor = self.value_head(states)
        return values.squeeze(-1)


class Reference:
    """The frozen policy that KL is measured against: a copy, or the adapters switched off."""

    def __init__(self, policy: PolicyWithValue, frozen: PreTrainedModel | None) -> None:
        """`frozen` is None for a policy with adapters, whose base is the reference.

        Raises `UserError` if training changes more than adapters and there is no copy.
        """
        self.policy = policy
        self.frozen = None if frozen is None else frozen.eval().requires_grad_(False)
        if frozen is None:
            check_reference(policy.model)

    @contextmanager
    def model(self) -> Iterator[PreTrainedModel]:
        """The reference model, for as long as the context lasts."""
        if self.frozen is not None:
            yield self.frozen
            return
        with using(self.policy.model, None):
            yield self.policy.model

    @without_gradient
    def logp(self, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """log π_ref of the response tokens."""
        with self.model() as model:
            return self.under(model, rollout)

    @without_gradient
    def under(self, model: PreTrainedModel, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """log π of the response tokens under another model, in the distribution sampled from."""
        policy, layout = self.policy, self.policy.layout(rollout)
        states, head = policy.computation.narrow(policy.states(model, layout)), head_of(model)
        budget = policy.computation.logits_memory
        return layout.spread(token_logp(states, head, policy.choices(rollout), budget)[0])

    @without_gradient
    def logp_and_kl(
        self, layout: Layout, states: Float[torch.Tensor, "N d"], rollout: Rollout
    ) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B T"]]:
        """log π_ref, and the exact KL of the policy, whose hidden states are given, from it."""
        policy = self.policy
        with self.model() as model:
            both = (
                policy.computation.narrow(states),
                policy.computation.narrow(policy.states(model, layout)),
            )
            heads = head_of(policy.model), head_of(model)
        budget = policy.computation.logits_memory
        logp, kl = token_kl(both, heads, policy.choices(rollout), budget)
        return layout.spread(logp), layout.spread(kl)

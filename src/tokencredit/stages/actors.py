"""The live models of an RL run: policy, reference, and the tokenizer they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.models.computation import Computation
from tokencredit.models.critic import check_same_ids, load_trunk, start_head
from tokencredit.models.ends import special_ids
from tokencredit.models.generation import Generated, generate
from tokencredit.models.kernels import ready
from tokencredit.models.loading import load_causal
from tokencredit.models.lora import adapted, add_value_adapter
from tokencredit.models.model import Autocast, load_tokenizer
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.value import ValueInit, ValueKind
from tokencredit.rollout import Prompts, Rollout
from tokencredit.streams import torch_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.config import Config

Stream = tuple[int | str, ...]


@dataclass(slots=True)
class Actors:
    """Policy with value function, frozen reference, and the tokenizer of both."""

    policy: PolicyWithValue
    reference: Reference
    tokenizer: PreTrainedTokenizerBase
    full_kl: bool = False
    """Whether rollouts hold the exact KL of every token, for estimators that ask for it."""
    score_all: bool = False
    """Whether responses of other models than the policy are scored too, for judges that read it."""

    @torch.no_grad()
    def roll_out(self, prompts: Prompts, stream: Stream) -> Rollout:
        """Responses of the policy, with what policy, reference, and value function say of them."""
        return self.score(self.respond(self.policy.model, prompts, stream))

    @torch.no_grad()
    def score(self, said: Rollout) -> Rollout:
        """The same responses with log-probabilities, values, and the reference's view of them.

        They are computed by the training forward pass: the decode loop's own log-probabilities
        differ in the last bits, and the first ratio must be 1. Rows of similar length are read
        together, `rollout.score_rows` at a time.
        """
        order = torch.argsort(said.total_lengths, stable=True)
        columns: dict[str, Tensor] = {}
        for rows in order.split(self.policy.sampling.score_rows):
            for name, part in self._score(said[rows]).items():
                if name not in columns:
                    columns[name] = part.new_zeros(said.response_ids.shape)
                columns[name][rows] = part
        fields: dict[str, Any] = dict(columns)
        return replace(said, **fields)

    def _score(self, part: Rollout) -> dict[str, Tensor]:
        layout = self.policy.layout(part)
        output, states = self.policy.read(layout, part)
        known = {"logp": output.logp, "values": output.values}
        if not self.full_kl:
            return known | {"ref_logp": self.reference.logp(part)}
        ref_logp, full_kl = self.reference.logp_and_kl(layout, states, part)
        return known | {"ref_logp": ref_logp, "full_kl": full_kl}

    @torch.no_grad()
    def answer(
        self, model: PreTrainedModel, prompts: Prompts, stream: Stream, *, greedy: bool = False
    ) -> Rollout:
        """What `model` responds, with log-probabilities and values only if `score_all`."""
        said = self.respond(model, prompts, stream, greedy=greedy)
        return self.score(said) if self.score_all else said

    def respond(
        self, model: PreTrainedModel, prompts: Prompts, stream: Stream, *, greedy: bool = False
    ) -> Rollout:
        """Responses of `model`, log-probabilities and values still zero.

        `greedy`: the likeliest token each time, without noise.
        """
        policy = self.policy
        with policy.computation.autocast(prompts.ids.device):
            said = generate(
                model,
                prompts,
                policy.sampling,
                policy.ids,
                stream,
                greedy=greedy,
                decode=self.tokenizer.decode,
            )
        return unscored(prompts, said)


def unscored(prompts: Prompts, said: Generated) -> Rollout:
    """What was said to the prompts, log-probabilities and values still zero."""
    zeros = torch.zeros(said.ids.shape, device=said.ids.device)
    return Rollout(
        rows=prompts.rows,
        groups=prompts.groups,
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=said.ids,
        response_mask=said.mask,
        min_new=prompts.min_new,
        finished=said.finished,
        stopped=said.stopped,
        logp=zeros,
        ref_logp=zeros,
        values=zeros,
        kept=said.kept,
    )


def load_actors(config: Config, sft: Path, reward_model: Path | None = None) -> Actors:
    """Policy, value function, and reference, without dropout, on the configured device.

    `sft` and `reward_model` are the folders of those artifacts; the latter is needed only where the
    value function starts from it (`model.value.init`).
    """
    tokenizer = load_tokenizer(sft)
    # LoRA's first factors are drawn from the global generator.
    torch.manual_seed(torch_seed(config.seed))
    lora, value = config.model.lora, config.model.value
    learns = config.algorithm if isinstance(config.algorithm, Algorithm) else None
    uses_values = learns is None or learns.uses_values
    base = _load(config, sft)
    special = special_ids(tokenizer, base)
    model = adapted(base, lora)
    frozen = None if lora.enabled else _load(config, sft)
    trunk: nn.Module | None = None
    weight: Tensor | None = None
    if uses_values and value.kind is ValueKind.adapter:
        add_value_adapter(model, lora)
    if uses_values and value.kind is ValueKind.separate:
        trunk, weight = _load_value_trunk(config, sft, reward_model)
    for each in (model, frozen, trunk):
        if each is not None:
            ready(each)
    device = config.hardware.device.value
    computation = Computation(
        uses_values=uses_values,
        logits_memory=config.hardware.logits_memory_mb << 20,
        narrow_format=torch.bfloat16 if config.model.autocast is Autocast.bfloat16 else None,
    )
    policy = PolicyWithValue(model, special, config.rollout, computation, trunk).to(device)
    if weight is not None:
        start_head(policy, weight)
    if config.hardware.gradient_checkpointing:
        policy.checkpoint_activations()
    reference = Reference(policy, None if frozen is None else frozen.to(device))
    return Actors(
        policy=policy,
        reference=reference,
        tokenizer=tokenizer,
        full_kl=learns is not None and learns.kl.reads_full,
        score_all=config.reads_reference(),
    )


def _load_value_trunk(
    config: Config, sft: Path, reward_model: Path | None
) -> tuple[nn.Module, Tensor | None]:
    model = config.model
    if model.value.init is ValueInit.reward_model and reward_model is not None:
        check_same_ids(load_tokenizer(sft), load_tokenizer(reward_model))
    quantized = model.quantized(config.hardware.device.value)
    trunk, weight = load_trunk(
        model.value, sft, reward_model, model.dtype, model.context, quantized
    )
    return adapted(trunk, model.lora, "FEATURE_EXTRACTION"), weight


def _load(config: Config, sft: Path) -> PreTrainedModel:
    model = config.model
    quantized = model.quantized(config.hardware.device.value)
    return load_causal(sft, model.dtype, context=model.context, quantized=quantized)

"""The live models of an RL run: policy, reference, and the tokenizer they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tokencredit.models.dropout import disable_dropout
from tokencredit.models.generation import generate
from tokencredit.models.lora import adapted
from tokencredit.models.model import load_causal, load_tokenizer
from tokencredit.models.policy import PolicyWithValue, Reference, SpecialIds
from tokencredit.rollout import Prompts, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.config import Config

Stream = tuple[int | str, ...]


@dataclass(slots=True)
class Actors:
    """Policy with value head, frozen reference, and the tokenizer of both."""

    policy: PolicyWithValue
    reference: Reference
    tokenizer: PreTrainedTokenizerBase

    @torch.no_grad()
    def roll_out(self, prompts: Prompts, stream: Stream) -> Rollout:
        """Responses of the policy, with what policy, reference, and value head say of them.

        Log-probabilities are recomputed with the training forward pass: the decode loop's own
        differ in the last bits, and the first ratio must be 1.
        """
        said = self.respond(self.policy.model, prompts, stream)
        output = self.policy(said)
        return replace(
            said, logp=output.logp, values=output.values, ref_logp=self.reference.logp(said)
        )

    def respond(self, model: PreTrainedModel, prompts: Prompts, stream: Stream) -> Rollout:
        """Responses of `model`, log-probabilities and values still zero."""
        policy = self.policy
        ids, lengths, finished = generate(model, prompts, policy.sampling, policy.ids, stream)
        zeros = torch.zeros(ids.shape, device=ids.device)
        return Rollout(
            rows=prompts.rows,
            prompt_ids=prompts.ids,
            prompt_mask=prompts.mask,
            response_ids=ids,
            response_mask=torch.arange(ids.shape[1], device=ids.device) < lengths[:, None],
            min_new=prompts.min_new,
            finished=finished,
            logp=zeros,
            ref_logp=zeros,
            values=zeros,
        )


def load_actors(config: Config, sft: Path) -> Actors:
    """Policy and reference from the SFT artifact, without dropout, on the configured device."""
    tokenizer = load_tokenizer(sft)
    device = config.hardware.device.value
    torch.manual_seed(config.seed)  # LoRA's first factor is drawn from the global generator
    policy_model = adapted(_load(config, sft), config.model.lora).to(device)
    frozen = None if config.model.lora.enabled else _load(config, sft).to(device)
    for model in (policy_model, frozen):
        if model is not None:
            disable_dropout(model)
    special = SpecialIds(eos=int(tokenizer.eos_token_id), pad=int(tokenizer.pad_token_id))
    policy = PolicyWithValue(policy_model, special, config.rollout).to(device)
    return Actors(policy=policy, reference=Reference(policy, frozen), tokenizer=tokenizer)


def _load(config: Config, sft: Path) -> PreTrainedModel:
    return load_causal(sft, config.model.dtype, context=config.model.context)

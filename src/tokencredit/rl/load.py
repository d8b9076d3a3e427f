"""The live models of a run, from the folders of the stages before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tokencredit.config import Config
from tokencredit.models.actors import Actors
from tokencredit.models.adapters.lora import adapted, add_value_adapter
from tokencredit.models.critic import check_same_ids, load_trunk, start_head
from tokencredit.models.loading.model import Autocast, load_tokenizer
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.kernels import ready
from tokencredit.models.tokens.ends import special_ids
from tokencredit.models.value import ValueInit, ValueKind
from tokencredit.streams import torch_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_actors(config: Config, sft: Path, reward_model: Path | None = None) -> Actors:
    """Policy, value function, and reference, without dropout, on the configured device.

    `sft` and `reward_model` are the folders of those artifacts; the latter is needed only where the
    value function starts from it (`model.value.init`).
    """
    tokenizer = load_tokenizer(sft)
    # LoRA's first factors are drawn from the global generator.
    torch.manual_seed(torch_seed(config.seed))
    lora, value = config.model.lora, config.model.value
    algorithm = config.algorithm
    uses_values = algorithm.uses_values
    base = _load(config, sft)
    special = special_ids(tokenizer, base)
    model = adapted(base, lora)
    frozen = None if lora.enabled else _load(config, sft)
    trunk: torch.nn.Module | None = None
    weight: torch.Tensor | None = None
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
    from tokencredit.models.policy import PolicyWithValue, Reference

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
        full_kl=algorithm.reads_full(),
        score_all=config.reads_reference(),
    )


def _load_value_trunk(
    config: Config, sft: Path, reward_model: Path | None
) -> tuple[torch.nn.Module, torch.Tensor | None]:
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

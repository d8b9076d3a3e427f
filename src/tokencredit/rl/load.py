"""What a run reads of the folders of the stages before it: its live models, and what its judge is
given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.judges.given import Given
from tokencredit.models.actors import Actors
from tokencredit.models.adapters.adapter import find_adapter
from tokencredit.models.adapters.lora import adapted, add_value_adapter
from tokencredit.models.critic import check_same_ids, load_trunk, start_head
from tokencredit.models.loading.model import Autocast, load_tokenizer
from tokencredit.models.loading.parts import Shards, load_causal_parts
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.log_ratio import ADAPTER
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.kernels import ready
from tokencredit.models.tokens.ends import SpecialIds, special_ids
from tokencredit.models.value import ValueInit, ValueKind
from tokencredit.streams import torch_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.models.policy import PolicyWithValue, Reference


def load_actors(
    config: Config, sft: Path, start: Path | None = None, shards: Shards | None = None
) -> Actors:
    """Policy, value function, and reference, without dropout, on the configured device.

    `sft` is the folder of the SFT model, `start` that of the reward model, or the judge's model,
    where the value function starts from it (`model.value.init`). With `shards` no process ever
    holds all of the policy; every process calls this then.
    """
    tokenizer = load_tokenizer(sft)
    # LoRA's first factors are drawn from the global generator.
    torch.manual_seed(torch_seed(config.seed))
    lora, value = config.model.lora, config.model.value
    algorithm = config.algorithm
    uses_values = config.uses_values
    base = _load(config, sft, shards)
    special = special_ids(tokenizer, base)
    model = adapted(base, lora)
    frozen = None if lora.enabled else _load(config, sft)
    trunk: torch.nn.Module | None = None
    weight: torch.Tensor | None = None
    if uses_values and value.kind is ValueKind.adapter:
        add_value_adapter(model, lora)
    if uses_values and value.kind is ValueKind.separate:
        trunk, weight = _load_value_trunk(config, sft, start)
    for each in (model, frozen, trunk):
        if each is not None:
            ready(each)
    computation = _computation(config, uses_values=uses_values)
    policy, reference = _live(config, model, special, computation, frozen, trunk)
    if weight is not None:
        start_head(policy, weight)
    if config.hardware.gradient_checkpointing:
        policy.checkpoint_activations()
    return Actors(
        policy=policy,
        reference=reference,
        tokenizer=tokenizer,
        full_kl=algorithm.reads_full(),
        entropies=config.advantage_scheme.reads_entropy,
        score_all=config.reads_reference(),
    )


def load_finished(config: Config, trained: Path, sft: Path) -> Actors:
    """A model that learnt without rollouts in the policy's place, frozen, with the SFT model as its
    reference: both as in a run, for its evaluation.

    The SFT model is in four bits where a run's would be. `trained` may be its own folder; an
    adapter lies on one copy of it; a whole model is read as it was written.
    """
    tokenizer, base, adapter = load_tokenizer(sft), _load(config, sft), find_adapter(trained)
    special = special_ids(tokenizer, base)
    frozen: PreTrainedModel | None = base
    if adapter is not None:
        model, frozen = adapter.filled(base), None
    else:
        model = base if trained == sft else _whole(config, trained)
    for each in {id(part): part for part in (model, frozen) if part is not None}.values():
        ready(each)
    computation = _computation(config, uses_values=False)
    policy, reference = _live(config, model, special, computation, frozen)
    return Actors(policy=policy, reference=reference, tokenizer=tokenizer)


def _live(
    config: Config,
    model: PreTrainedModel,
    special: SpecialIds,
    computation: Computation,
    frozen: PreTrainedModel | None,
    trunk: torch.nn.Module | None = None,
) -> tuple[PolicyWithValue, Reference]:
    """The policy and its reference on the configured device."""
    from tokencredit.models.policy import PolicyWithValue, Reference  # classes of torch's

    device = config.hardware.device.value
    policy = PolicyWithValue(model, special, config.rollout, computation, trunk).to(device)
    return policy, Reference(policy, None if frozen is None else frozen.to(device))


def _computation(config: Config, *, uses_values: bool) -> Computation:
    """How the models of a run compute."""
    return Computation(
        uses_values=uses_values,
        logits_memory=config.hardware.logits_memory_mb << 20,
        narrow_format=torch.bfloat16 if config.model.autocast is Autocast.bfloat16 else None,
    )


def _load_value_trunk(
    config: Config, sft: Path, start: Path | None
) -> tuple[torch.nn.Module, torch.Tensor | None]:
    model = config.model
    if model.value.init is not ValueInit.sft and start is not None:
        check_same_ids(load_tokenizer(sft), load_tokenizer(start), model.value.init)
    quantized = model.quantized(config.hardware.device.value)
    trunk, weight = load_trunk(model.value, sft, start, model.dtype, model.context, quantized)
    return adapted(trunk, model.lora, "FEATURE_EXTRACTION"), weight


def _whole(config: Config, trained: Path) -> PreTrainedModel:
    return load_causal(trained, config.model.dtype, context=config.model.context)


def _load(config: Config, sft: Path, shards: Shards | None = None) -> PreTrainedModel:
    model = config.model
    quantized = model.quantized(config.hardware.device.value)
    if shards is not None and quantized is None:  # four bits are made of whole layers
        return load_causal_parts(sft, model.dtype, model.context, shards)
    return load_causal(sft, model.dtype, context=model.context, quantized=quantized)


@dataclass(frozen=True, slots=True)
class TokenizerAlone:
    """What stands for live models where there are none: judges that read texts work with it."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def policy(self) -> torch.nn.Module:
        """There is none."""
        raise UserError("policy: is missing; the judge reads the live policy, so give one")


def open_live(
    config: Config, tokenizer: PreTrainedTokenizerBase, folders: Mapping[str, Path]
) -> Actors | TokenizerAlone:
    """What a judge reads of live models, outside of a run: of those in `folders`, by role.

    The policy is frozen and has no values; without one, the reference ("sft") stands in its place.
    """
    place = folders.get("policy", folders.get("sft"))
    if place is None:
        return TokenizerAlone(tokenizer)
    dpo = folders.get("dpo")
    base = load_causal(place, config.model.dtype)
    special = special_ids(tokenizer, base)
    # A DPO model that is an adapter is put beside others, on the model that it was trained on.
    beside = dpo is not None and (dpo / ADAPTER).is_file()
    model = adapted(base, replace(config.model.lora, enabled=beside)).eval()
    ready(model)
    memory = Computation(uses_values=False, logits_memory=config.hardware.logits_memory_mb << 20)
    apart = config.reads_reference() and "policy" in folders
    frozen = load_causal(folders["sft"], config.model.dtype) if apart else base
    policy, reference = _live(config, model, special, memory, frozen)
    return Actors(policy=policy, reference=reference, tokenizer=tokenizer)


def given_from(
    config: Config,
    folder: Callable[[str], Path],
    column_names: Callable[[], Sequence[str]],
    columns: Callable[[Sequence[str]], Mapping[str, Sequence[object]]],
) -> Given:
    """What judge and scorer of that configuration may read; `folder` finds artifacts by role."""
    return Given(
        folder=folder,
        model=config.model,
        device=config.hardware.device.value,
        score_at=config.reward_model.score_at,
        beta=config.dpo.beta,
        scheme=config.reward_scheme,
        seconds=config.run.function_seconds,
        column_names=column_names,
        columns=columns,
    )

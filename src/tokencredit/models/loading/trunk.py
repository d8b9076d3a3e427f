"""The parts of a causal model: the trunk that makes hidden states, and the head above it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar, cast

import torch

from tokencredit.errors import UserError, require

T = TypeVar("T")
Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
"""Called in a forward pass: what surrounds a layer then, and what surrounds it recomputed."""


def backbone(model: torch.nn.Module) -> Any:
    """The part of a model below its head, adapters included; the model itself if it has none."""
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return plain.base_model


NO_SCORE: Final = (
    "it brings no score head, so it is no finished reward model: train one "
    "(reward_model.train=true), or use another"
)


def check_causal(model: torch.nn.Module) -> None:
    """Raise unless `model` writes one token after the other, by logits that can be computed."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = cast(Any, model).config
    one_way = any(getattr(config, name, False) for name in ("is_decoder", "causal"))
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not one_way:
        raise UserError(
            f"model: {type(backbone(model)).__name__} reads texts in both directions, so it cannot "
            "write them (is_decoder of its config.json is false); use a causal language model"
        )
    if getattr(model, "_is_stateful", False):  # transformers' word for Mamba, RWKV, and their like
        raise UserError(
            f"model: {type(backbone(model)).__name__} keeps a state in place of keys and values, "
            "which sampling cannot continue from; use a model with attention alone"
        )
    head_of(model)


def head_of(model: torch.nn.Module) -> torch.nn.Linear:
    """The layer from hidden states to logits; `UserError` where logits are more than that."""
    plain: Any = model
    head, name = plain.get_output_embeddings(), type(backbone(model)).__name__
    if not isinstance(head, torch.nn.Linear) or not head.weight.is_floating_point():
        raise UserError(f"model: the head above {name} is no plain linear layer, and must be one")
    config = plain.config.get_text_config()
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, key, None) not in {None, 1}:
            raise UserError(f"model: {key} of {name} changes its logits, which is not supported")
    return head


def passing(head: torch.nn.Linear, compute: Callable[[torch.Tensor], T], states: torch.Tensor) -> T:
    """`compute(states)`, which reads the weights of `head`, as a pass of `head`.

    Where weights are in shards (ZeRO-3), hooks around a layer's passes bring its own together, and
    take them apart again, forward and backward.
    """
    before = vars(head).get("forward")
    head.forward = compute  # type: ignore[method-assign, assignment]
    try:
        found: T = head(states)
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before  # type: ignore[method-assign]
    return found


def check_readable(model: torch.nn.Module) -> None:
    """Raise for classifiers whose score cannot be read at a token, or is none."""
    plain: Any = model
    labels = int(plain.config.num_labels)
    require(
        labels <= 2,
        "model.reward",
        f"{labels} outputs",
        "a score is one output, or positive less negative of two; use a model with one or two",
    )
    require(
        hasattr(model, "score"),
        "model.reward",
        type(model).__name__,
        "reads a whole text at once; a score is read at a token, which causal classifiers allow "
        "(GPT-2, Llama, GPT-NeoX, GPT-J, and their like)",
    )


def hidden_size(model: torch.nn.Module) -> int:
    """Width of the hidden states."""
    plain: Any = model
    return int(plain.config.get_text_config().hidden_size)


def checkpoint(model: torch.nn.Module, contexts: Contexts | None = None) -> None:
    """Recompute activations of each layer in the backward pass, in training mode."""
    plain: Any = model
    settings: dict[str, Any] = {"use_reentrant": False}
    if contexts is not None:
        settings["context_fn"] = contexts
    name = "activation_checkpointing_enable"  # transformers before 5.23 has the older name only
    (getattr(plain, name, None) or plain.gradient_checkpointing_enable)(settings)


@contextmanager
def count_reads(
    folders: Mapping[str, str], live: Mapping[torch.nn.Module, str]
) -> Iterator[Counter[str]]:
    """How many tokens trunks read until the context ends, by role, padding included.

    A backward pass counts as two. `folders` are the roles of models by where they were loaded from,
    `live` those of trunks that are known themselves, which comes first.
    """
    tokens: Counter[str] = Counter()

    def seen(module: torch.nn.Module, _: object, output: object) -> None:
        plain, said = cast(Any, module), cast(Any, output)
        if getattr(module, "base_model", None) is not module:  # no model, or one with a head
            return
        states = said.last_hidden_state
        role, count = live.get(module) or folders.get(plain.name_or_path), states[..., 0].numel()
        if role is not None:
            tokens[role] += count
            if states.requires_grad:
                states.register_hook(lambda _: tokens.update({role: 2 * count}))

    hook = torch.nn.modules.module.register_module_forward_hook(seen)
    try:
        yield tokens
    finally:
        hook.remove()

"""Value functions with weights of their own: loaded, saved, read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.errors import UserError, require
from tokencredit.models.adapters.adapter import WEIGHTS, fill_adapter
from tokencredit.models.adapters.lora import VALUE, merged_copy
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.quantization import Quantized
from tokencredit.models.loading.trunk import backbone
from tokencredit.models.loading.weights import load_causal, load_classifier, load_folder, load_into
from tokencredit.models.value import Value, ValueHead, ValueInit, ValueKind
from tokencredit.ops import without_gradient
from tokencredit.store.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.models.policy import PolicyWithValue

HEAD: Final = "value_head.safetensors"
ADAPTER: Final = "adapter"
KIND: Final = "value.json"


def load_trunk(
    value: Value,
    sft: Path,
    start: Path | None,
    dtype: Dtype,
    context: int,
    quantized: Quantized | None = None,
) -> tuple[torch.nn.Module, torch.Tensor | None]:
    """The second backbone of kind=separate, and the weight (1, d) its head starts from, if any.

    `start` is the folder of the classifier that `value.init` names.
    """
    if value.init is ValueInit.sft:
        return backbone(load_causal(sft, dtype, context=context, quantized=quantized)), None
    if start is None:
        raise UserError(
            f"model.value.init = {value.init.value!r}: this run has no "
            f"{value.init.value.replace('_', ' ')} of its own; use sft"
        )
    classifier: Any = load_classifier(start, dtype, context=context, quantized=quantized)
    weight = score_weight(classifier) if value.head is ValueHead.keep else None
    return backbone(classifier), weight


def check_same_ids(
    policy: PreTrainedTokenizerBase, start: PreTrainedTokenizerBase, init: ValueInit
) -> None:
    """Raise unless a value function that starts from another model reads the policy's ids."""
    if policy.get_vocab() != start.get_vocab():
        raise UserError(
            f"model.value.init = {init.value!r}: its vocabulary differs from the policy's, whose "
            "token ids it would read; use sft, or models that share a tokenizer"
        )


def score_weight(classifier: Any) -> torch.Tensor:
    """The weight (1, d) from hidden states to a classifier's score.

    That of a single output, or positive minus negative where there are two. Other classifiers have
    no score: `UserError`.
    """
    weight: torch.Tensor = classifier.score.weight.detach().float()
    require(
        len(weight) <= 2 and getattr(classifier.score, "bias", None) is None,
        "model.value.head",
        "keep",
        f"the reward model has {len(weight)} outputs (or a bias), which is no score; use fresh",
    )
    return weight if len(weight) == 1 else weight[1:] - weight[:1]


def save_value(policy: PolicyWithValue, folder: Path) -> None:
    """Write the value function to `folder`: its head, and the weights or adapter it has alone.

    A separate backbone is a plain Hugging Face folder, its adapters merged.
    """
    from safetensors.torch import save_file

    save_file(policy.value_head.state_dict(), folder / HEAD)
    write_json(folder / KIND, {"kind": kind_of(policy).value})
    if policy.value_trunk is not None:
        trunk: Any = policy.value_trunk
        if hasattr(trunk, "merge_and_unload"):
            trunk = merged_copy(trunk)
        trunk.save_pretrained(folder)
    elif policy.has_value_adapter:
        policy.model.save_pretrained(folder, selected_adapters=[VALUE])
        (folder / VALUE).rename(folder / ADAPTER)


def restore_value(policy: PolicyWithValue, folder: Path) -> None:
    """Give `policy` the value function that `save_value` wrote; another kind is an error."""
    found = read_json(folder / KIND)["kind"]
    kind = kind_of(policy)
    require(found == kind.value, "model.value.kind", kind.value, f"{folder} holds kind={found}")
    load_into(policy.value_head, folder / HEAD)
    device = policy.value_head.weight.device
    if policy.value_trunk is not None:
        dtype = next(policy.value_trunk.parameters()).dtype
        policy.value_trunk = load_folder(folder, dtype).to(device)
    elif policy.has_value_adapter:
        fill_adapter(policy.model, folder / ADAPTER / WEIGHTS, "the value function's", VALUE)


def kind_of(policy: PolicyWithValue) -> ValueKind:
    """Where a policy's values come from."""
    if policy.value_trunk is not None:
        return ValueKind.separate
    return ValueKind.adapter if policy.has_value_adapter else ValueKind.shared


@without_gradient
def start_head(policy: PolicyWithValue, weight: torch.Tensor) -> None:
    """Let the value head start from `weight` (1, d), its bias 0."""
    policy.value_head.weight.copy_(weight)

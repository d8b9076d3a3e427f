"""The trained discriminator at work: how sure it is of each token that it is a good one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float, Int

from tokencredit.errors import UserError
from tokencredit.models.loading.model import Model, check_vocabulary
from tokencredit.models.loading.trunk import backbone, check_readable
from tokencredit.models.loading.weights import check_context, load_classifier
from tokencredit.models.passes.kernels import ready
from tokencredit.models.passes.sequences import read_tokens
from tokencredit.ops import keep, without_gradient
from tokencredit.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLASSES: Final = 2
"""Its outputs: bad, good."""


def token_log_odds(
    model: torch.nn.Module, ids: Int[torch.Tensor, "B S"]
) -> Float[torch.Tensor, "B S"]:
    """The logit of good less that of bad, read at each token: it has seen that token, and none
    behind it. `model` is a sequence classifier with two outputs; rows are right-padded.

    With gradient, and with the adapters of `model`, if it has any.
    """
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    # Causal attention never looks at padding on the right, and positions count from the left.
    hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    logits: torch.Tensor = plain.score(hidden).float()
    return logits[..., 1] - logits[..., 0]


class Discriminator:
    """A sequence classifier with the outputs bad and good, read at every token of a response."""

    def __init__(self, model: PreTrainedModel) -> None:
        """`model` is frozen and put into evaluation mode, its activations fused."""
        ready(model)
        self.model = model.eval().requires_grad_(False)

    @without_gradient
    def log_odds(self, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """log D − log(1 − D) of each response token, D the probability that it is a good one."""
        said = read_tokens(rollout, lambda ids: token_log_odds(self.model, ids)[..., None])
        return keep(said[:, 1:, 0], rollout.response_mask)  # what is said at the prompt's end is 0


def check_classes(model: PreTrainedModel, what: str) -> None:
    """Raise unless `model` has the two outputs of a discriminator, in a plain linear layer.

    `what` is the folder or stage that it comes from, as the error names it.
    """
    check_readable(model)
    count = int(model.config.num_labels)
    if count != CLASSES or getattr(model.score, "bias", None) is not None:
        raise UserError(
            f"{what}: a discriminator has two outputs without bias, bad and good; this model has "
            f"{count}: train it anew (judge=discriminator)"
        )


def open_discriminator(
    folder: Path, tokenizer: PreTrainedTokenizerBase, model: Model, device: str
) -> Discriminator:
    """The discriminator in `folder`, which reads the ids of `tokenizer`, the policy's.

    Raises `UserError` for one with other outputs, another vocabulary, or too short a context.
    """
    check_vocabulary(folder, tokenizer, "discriminator", " (judge.init=sft)")
    classifier = load_classifier(folder, model.dtype)
    check_classes(classifier, str(folder))
    check_context(classifier.config, model.context, of="discriminator")
    return Discriminator(classifier.to(device))

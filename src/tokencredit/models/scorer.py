"""The trained reward model at work: scores, and the attention behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokencredit.errors import UserError
from tokencredit.models.attention_row import AttentionRow
from tokencredit.models.dropout import disable_dropout
from tokencredit.models.model import load_classifier, load_tokenizer
from tokencredit.models.sequences import compact, position_ids
from tokencredit.ops import keep
from tokencredit.rollout import Rollout
from tokencredit.stages.reward_model import RewardModelStage, sentiment

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.context import Context


class Scorer:
    """A sequence classifier that reads its score at the last response token, wherever that is."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        """`model` is frozen and put into evaluation mode."""
        disable_dropout(model)
        self.model = model.eval().requires_grad_(False)
        self.pad_id = pad_id
        self.backbone: nn.Module = getattr(model, model.base_model_prefix)

    def score(self, rollout: Rollout) -> Float[Tensor, "B"]:
        """logit(positive) − logit(negative) of each response after its prompt."""
        ids, mask, _, last = compact(rollout, self.pad_id)
        return self._score(ids, mask, last)

    def score_and_attention(
        self, rollout: Rollout, layer: int
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B T"]]:
        """The scores, and the head-mean attention from where they are read to each token."""
        ids, mask, start, last = compact(rollout, self.pad_id)
        reader = AttentionRow(self.model, layer)
        with reader.capture(last):
            scores = self._score(ids, mask, last)
        weights = reader.weights.mean(dim=1)
        columns = start[:, None] + torch.arange(rollout.response_mask.shape[1], device=start.device)
        chosen = weights.gather(1, columns.clamp(max=weights.shape[1] - 1))
        return scores, keep(chosen, rollout.response_mask)

    @torch.no_grad()
    def _score(self, ids: Tensor, mask: Tensor, last: Tensor) -> Tensor:
        hidden = self.backbone(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=position_ids(mask),
            use_cache=False,
        ).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        head: nn.Module = self.model.score
        return sentiment(head(hidden[rows, last]).float())


def open_scorer(context: Context, tokenizer: PreTrainedTokenizerBase) -> Scorer:
    """The reward model of a run; its vocabulary must be the policy's, whose ids it reads."""
    artifact = context.store.get(RewardModelStage(context))
    own = load_tokenizer(artifact.path)
    if own.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            "model.reward: the reward model's vocabulary differs from the policy's, and it reads "
            "the policy's token ids; use models that share a tokenizer"
        )
    config = context.config
    model = load_classifier(artifact.path, config.model.dtype).to(config.hardware.device.value)
    return Scorer(model, int(own.pad_token_id))

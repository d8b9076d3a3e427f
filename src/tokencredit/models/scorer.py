"""The trained reward model at work: scores, and the attention behind them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int

from tokencredit.models.attention.row import AttentionRow, check_attention
from tokencredit.models.attention.weights import head_mean
from tokencredit.models.loading.model import Model, load_tokenizer
from tokencredit.models.loading.trunk import check_readable
from tokencredit.models.loading.weights import check_context, load_classifier
from tokencredit.models.passes.kernels import ready
from tokencredit.models.passes.sequences import ScoreAt, compact, parts, score_position
from tokencredit.models.tokens.retokenise import Retokeniser, check_ids, retokeniser_between
from tokencredit.ops import keep, without_gradient
from tokencredit.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class _Look:
    """What is read of the attention, beside the scores."""

    row: AttentionRow
    heads: Sequence[int]
    from_last: bool


class Scorer:
    """A sequence classifier that reads its score at the end of a response, wherever that is."""

    retokeniser: Retokeniser | None = None
    """What brings the policy's ids into the model's own, where they differ; see `open_reader`."""

    def __init__(
        self, model: PreTrainedModel, pad_id: int, score_at: ScoreAt = ScoreAt.end
    ) -> None:
        """`model` is frozen and put into evaluation mode, its activations fused."""
        ready(model)
        self.model = model.eval().requires_grad_(False)
        self.pad_id, self.score_at = pad_id, score_at
        self.backbone: torch.nn.Module = getattr(model, model.base_model_prefix)
        self._rows: dict[int, AttentionRow] = {}

    def score(self, rollout: Rollout) -> Float[torch.Tensor, "B"]:
        """logit(positive) − logit(negative), or the single output, of each response."""
        return self._run(rollout, None)[0]

    def score_and_attention(
        self, rollout: Rollout, layer: int, heads: Sequence[int] = (), *, from_last: bool = False
    ) -> tuple[Float[torch.Tensor, "B"], Float[torch.Tensor, "B T"]]:
        """The scores, and the head-mean attention from where they are read to each token.

        Of the named heads, or of all if none is named. `from_last`: the attention from the last
        response token, wherever the score is read.
        """
        return self._run(rollout, _Look(self.attention_row(layer), heads, from_last))

    def check(self, layer: int, heads: Sequence[int]) -> None:
        """Raise `UserError` for attention that this model does not have, or does not show."""
        check_attention(self.model, layer, heads)

    def attention_row(self, layer: int) -> AttentionRow:
        """The reader of a layer; raises `UserError` if the architecture's cannot be read."""
        if layer not in self._rows:
            self._rows[layer] = AttentionRow(self.model, layer)
        return self._rows[layer]

    @without_gradient
    def _run(
        self, rollout: Rollout, look: _Look | None
    ) -> tuple[Float[torch.Tensor, "B"], Float[torch.Tensor, "B T"]]:
        """Both kinds of scoring, so that they cannot differ: the same passes, read or not."""
        ids, _, start, last = compact(rollout, self.pad_id)
        read = score_position(rollout, last, self.score_at)
        seer = last if look and look.from_last else read
        scores = torch.zeros(len(ids), device=ids.device)
        evidence = torch.zeros(rollout.response_mask.shape, device=ids.device)
        for rows, width in parts(last + 1):
            with look.row.capture(seer[rows]) if look else nullcontext():
                scores[rows] = self._score(ids[rows, :width], read[rows])
            if look:
                columns = start[rows, None] + torch.arange(evidence.shape[1], device=ids.device)
                mean = head_mean(look.row.weights, look.heads)
                evidence[rows] = mean.gather(1, columns.clamp(max=width - 1))
                look.row.forget()
        return scores, keep(evidence, rollout.response_mask)

    def _score(
        self, ids: Int[torch.Tensor, "B S"], read: Int[torch.Tensor, "B"]
    ) -> Float[torch.Tensor, "B"]:
        """Scores read at `read` of right-padded rows."""
        return self._read(read, input_ids=ids)

    def embed(self, ids: Int[torch.Tensor, "*S"]) -> Float[torch.Tensor, "*S d"]:
        """What the model reads of `ids`, before positions are added."""
        with torch.no_grad():
            embedded: torch.Tensor = self._table()(ids)
        return embedded.float()

    def vocabulary(self) -> int:
        """How many ids have an embedding."""
        return int(self._table().num_embeddings)

    def score_embedded(
        self, embedded: Float[torch.Tensor, "B S d"], read: Int[torch.Tensor, "B"]
    ) -> Float[torch.Tensor, "B"]:
        """Scores as a function of what is read in place of ids, with gradient where that has one.

        Rows are right-padded and read at `read`, as those of ids are.
        """
        return self._read(read, inputs_embeds=embedded.to(self.model.dtype))

    def _table(self) -> torch.nn.Embedding:
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    def _read(
        self, read: Int[torch.Tensor, "B"], **inputs: torch.Tensor
    ) -> Float[torch.Tensor, "B"]:
        # Causal attention never looks at padding on the right, and positions count from the left
        # anyway; without a mask, flash attention can run and no (B, S, S) mask is made.
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        rows = torch.arange(len(read), device=read.device)
        head: torch.nn.Module = self.model.score
        return score_of_logits(head(hidden[rows, read]).float())


def open_scorer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, model: Model, score_at: ScoreAt, device: str
) -> Scorer:
    """As `open_reader`, for a caller that hands over the ids of `tokenizer`: the reward model's
    vocabulary must be its own."""
    scorer = open_reader(folder, tokenizer, model, score_at, device)
    check_ids(scorer.retokeniser)
    return scorer


def open_reader(
    folder: Path, tokenizer: PreTrainedTokenizerBase, model: Model, score_at: ScoreAt, device: str
) -> Scorer:
    """The reward model in `folder`, for a caller that lets its `retokeniser` read first.

    `tokenizer` is that of the policy, whose responses it reads as `model` says.
    """
    own = load_tokenizer(folder)
    classifier = load_classifier(folder, model.dtype).to(device)
    check_readable(classifier)
    filler = own.eos_token_id if own.pad_token_id is None else own.pad_token_id  # never looked at
    scorer = Scorer(classifier, int(filler), score_at)
    scorer.retokeniser = retokeniser_between(tokenizer, own, model.reward_reads, classifier)
    if scorer.retokeniser is None:
        check_context(classifier.config, model.context, of="reward model")
    return scorer


def score_of_logits(logits: torch.Tensor) -> torch.Tensor:
    """The score of a classifier's (B, 2) logits, positive minus negative, or its (B, 1) output."""
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]

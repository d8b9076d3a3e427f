"""A pad id that is not the end id, and the embedding row that goes with it.

Hugging Face classifiers read their score at the last id that differs from the pad id. Where pad is
EOS, that is the token before EOS. Hence every model here has a pad id of its own, from training to
export; the end of a response is a length all the same, never a token id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.console import say
from tokencredit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADDED: Final = "<|pad|>"
"""The token that is added where the vocabulary has none."""
CANDIDATES: Final = (
    ADDED,
    "<pad>",
    "<PAD>",
    "[PAD]",
    "<|padding|>",
    "<|endofpad|>",
    "<|finetune_right_pad_id|>",
)
"""Names under which pretrained vocabularies keep a pad token that no text produces."""


def ensure_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give `tokenizer` a pad id that differs from its EOS id; True if its vocabulary grew by one.

    In this order: the pad token it has, if it differs from EOS; the first of `CANDIDATES` that is a
    special token of the vocabulary and has no other role; a new special token `<|pad|>`. The
    unknown token is never taken: it can stand in a text, and a classifier would skip it at the end.
    Raises `UserError` when there is no EOS token, because then no response can end.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model: the tokenizer has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json (a response must be able to end)"
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return False
    roles = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    special = {
        str(token): index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special and index not in roles
    }
    chosen = next((name for name in CANDIDATES if name in special), None)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": chosen or _unused_name(tokenizer)})
    return len(tokenizer) > size


def _unused_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """`<|pad|>`, or a longer name where the vocabulary uses that for text or another role."""
    name = ADDED
    while name in tokenizer.get_vocab():
        name = f"{name[:-2]}_{name[-2:]}"
    return name


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give `model` a row for every id of `tokenizer`, and its pad id; True if rows were added.

    New rows, in and out, are the mean of the old ones: deterministic, unlike transformers' draw
    from a normal distribution, and a new token starts about as likely as an average one. Spare rows
    of a vocabulary that was padded to a round number are used before the matrix grows.
    """
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    rows, wanted = embedding.num_embeddings, len(tokenizer)
    if wanted > rows:
        if wanted > rows + 1:  # more than a pad token
            say(
                f"model: the tokenizer has {wanted} tokens and the model {rows} embeddings; those "
                "of the others start from the mean"
            )
        with torch.random.fork_rng():  # the rows drawn here are overwritten: leave no trace
            model.resize_token_embeddings(wanted, mean_resizing=False)
        layers: Any = model
        for layer in (layers.get_input_embeddings(), layers.get_output_embeddings()):
            _fill_with_mean(layer, rows)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return wanted > rows


def _fill_with_mean(layer: torch.nn.Module | None, old_rows: int) -> None:
    """Set what follows the first `old_rows` rows of weight and bias to the mean of those."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            values = getattr(layer, name, None)
            if values is not None:
                values[old_rows:] = values[:old_rows].mean(dim=0, keepdim=True)

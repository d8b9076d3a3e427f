"""Conversations as a chat template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tokencredit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MISSING: Final = (
    "dataset.format: the records are conversations (messages), and the model's tokenizer has no "
    "chat template; use a chat model (model.policy, model.reward), or prompts and answers that are "
    "strings"
)
PROBE: Final = "Zq7kVw3"
"""What an assistant says to find out what its template writes behind an answer."""


class Refused(Exception):
    """A template does not take a conversation; the message is the template's own."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, str]],
    *,
    answering: bool = True,
) -> str:
    """The text of a conversation; `answering`: up to where the assistant begins to answer.

    Raises `UserError` where there is no template, `Refused` where it does not take these turns.
    """
    from jinja2.exceptions import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(MISSING)
    try:
        return str(
            tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=answering
            )
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        said = str(error).strip().splitlines()
        raise Refused(said[0] if said else type(error).__name__) from error


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token of its own that the chat template writes behind an answer; None if it has none."""
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    try:
        _, found, rest = render(tokenizer, turns, answering=False).rpartition(PROBE)
    except Refused:
        return None
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    return int(ids[0]) if ids and ids[0] in tokenizer.added_tokens_decoder else None

"""Texts in a judge's own ids, and where in the text each of them stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tokencredit.errors import UserError
from tokencredit.models.tokens.spans import Text, consecutive
from tokencredit.models.tokens.token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class JudgeWriter:
    """Writes texts in a judge's ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The tokenizer must say where in the text its tokens are."""
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                "model.reward_reads = 'text': the reward model's tokenizer "
                f"({type(tokenizer).__name__}) does not say where in the text its tokens are; use "
                "a fast one (a folder with tokenizer.json)"
            )
        self.tokenizer = tokenizer
        self.bytes = TokenBytes(tokenizer)
        probe = tokenizer("a", return_special_tokens_mask=True)
        ids, special = list(probe["input_ids"]), list(probe["special_tokens_mask"])
        content = [place for place, own in enumerate(special) if not own]
        self.opening: list[int] = ids[: content[0]]
        end = int(tokenizer.eos_token_id)
        closing = ids[content[-1] + 1 :]
        self.closing: list[int] = closing if closing[-1:] == [end] else [*closing, end]
        """As the reward model's training texts end."""

    def write(self, texts: list[Text]) -> list[tuple[list[int], Float[ndarray, "N 2"]]]:
        """The ids of each text, and the ranges of bytes that they stand for.

        Names of special tokens in a text are text: nothing that a policy spells out can end a
        sequence, or begin another.
        """
        found = self.tokenizer(
            [text.string for text in texts],
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
            verbose=False,
        )
        rows: list[tuple[list[int], Float[ndarray, "N 2"]]] = []
        for text, line, offsets in zip(
            texts, found["input_ids"], found["offset_mapping"], strict=True
        ):
            ids, characters = self._without_names(line, offsets)
            rows.append((ids, self._places(text, ids, characters)))
        return rows

    def _without_names(
        self, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[list[int], Int[ndarray, "N 2"]]:
        """Some vocabularies have their special tokens as pieces of text: those are unknown here."""
        unknown = self.tokenizer.unk_token_id
        names = self.bytes.special - {unknown}
        plain = [unknown if index in names else index for index in ids]
        kept = [place for place, index in enumerate(plain) if index is not None]
        characters = np.array(offsets, dtype=np.int64).reshape(-1, 2)[kept]
        return [plain[place] for place in kept], characters

    def _places(self, text: Text, ids: list[int], offsets: ndarray) -> Float[ndarray, "N 2"]:
        if self.bytes.exact:
            pieces = [self.bytes.of(index) for index in ids]
            written, wanted = b"".join(pieces), text.string.encode()
            for extra in (b"", b" "):  # a space in front of the first word is no part of the text
                if written == extra + wanted:
                    spans = consecutive(list(map(len, pieces)), -len(extra))
                    return text.at_bytes(spans.clip(min=0))
        return text.at_characters(offsets)

"""Prompts and responses of somebody's own, as the ids that a run would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tokencredit.data.contents import message_of
from tokencredit.data.records import Unusable
from tokencredit.data.token_ids import Begun, TokenIds
from tokencredit.errors import UserError
from tokencredit.models.tokens.template import Refused
from tokencredit.models.tokens.texts import decode_tokens
from tokencredit.rollout import Prompts, Rollout, padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | Sequence[int] | Sequence[Mapping[str, object]]
"""A text, a conversation up to where the assistant answers, or ids as they are."""
Response = str | Sequence[int]
"""A text, or ids as they are, the end token with them."""
Finished = bool | Sequence[bool] | None


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes a rollout of prompts and responses; log-probabilities and values of it are zero."""

    ids: TokenIds

    def rollout(
        self, prompts: Sequence[Prompt], responses: Sequence[Response], finished: Finished
    ) -> Rollout:
        """Response i answers prompt i; raises `UserError` that names what has no token."""
        self._check(prompts, responses, finished)
        count = len(prompts)
        ended = [finished] * count if finished is None or isinstance(finished, bool) else finished
        given = zip(range(count), prompts, responses, ended, strict=True)
        rows = [self._row(*each) for each in given]
        pad = self.ids.tokenizer.pad_token_id
        filler = self.ids.end if pad is None else int(pad)
        asked = Prompts.padded([row.prompt for row in rows], filler)
        ids, mask = padded([row.response for row in rows], filler)
        done = torch.tensor([row.finished for row in rows])
        closed = torch.tensor([row.response[-1] in self._ends for row in rows])
        return Rollout.blank(asked, ids, mask, finished=done, stopped=done & ~closed)

    @property
    def _ends(self) -> tuple[int, int]:
        return self.ids.end, self.ids.turn_end

    def _check(
        self, prompts: Sequence[Prompt], responses: Sequence[Response], finished: Finished
    ) -> None:
        for name, value in (("prompts", prompts), ("responses", responses)):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UserError(f"{name}: is a {type(value).__name__}; give a list, one a response")
        if not prompts or len(prompts) != len(responses):
            raise UserError(
                f"responses: there are {len(responses)} to {len(prompts)} prompts; give one prompt "
                "for each response, and at least one"
            )
        if isinstance(finished, Sequence) and len(finished) != len(responses):
            raise UserError(
                f"finished: has {len(finished)} values for {len(responses)} responses; give one "
                "for each, or True or False for all"
            )

    def _row(self, place: int, prompt: Prompt, response: Response, finished: bool | None) -> _Row:
        begun = self._begin(place, prompt)
        if isinstance(response, str):
            ids, done = self.ids.answer(begun, response).ids, finished is not False
            ids = ids if done else ids[:-1]  # without the end token
        else:
            ids = self._given(f"responses[{place}]", response)
            done = bool(ids) and ids[-1] in self._ends if finished is None else finished
        for name, found in (("prompts", begun.ids), ("responses", ids)):
            if not found:
                raise UserError(f"{name}[{place}]: has no token; leave the pair out")
        return _Row(begun.ids, ids, done)

    def _begin(self, place: int, prompt: Prompt) -> Begun:
        name = f"prompts[{place}]"
        if isinstance(prompt, str):
            return Begun(self.ids.opened(prompt), prompt)
        if any(isinstance(part, Mapping) for part in prompt):
            try:
                return self.ids.converse([message_of(turn) for turn in prompt])
            except (Unusable, Refused) as refused:
                raise UserError(f"{name}: cannot be read as a conversation: {refused}") from refused
        return Begun(self._given(name, prompt), None)

    def _given(self, name: str, ids: Sequence[object]) -> list[int]:
        known = len(self.ids.tokenizer)
        for index in ids:
            if not isinstance(index, int) or not 0 <= index < known:
                raise UserError(
                    f"{name}: {index!r} is no id of the tokenizer, which has {known}; give a text, "
                    "or a list of ids"
                )
        return list(ids)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: list[int]
    response: list[int]
    finished: bool


def pieces(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> list[list[str]]:
    """The text of each response token; together they are the response's text.

    A token without text of its own is shown as its name, or as � where it begins a character that
    a later one completes.
    """
    ids, mask = rollout.response_ids, rollout.response_mask
    texts, ranges = decode_tokens(tokenizer, ids, mask)
    return [
        [
            text[start:stop] or tokenizer.decode([index])
            for index, (start, stop) in zip(row[keep].tolist(), own, strict=True)
        ]
        for text, own, row, keep in zip(texts, ranges, ids, mask, strict=True)
    ]

"""From texts and conversations to token ids: one way for all that is trained, said, or judged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tokencredit.data.records import Message, Record
from tokencredit.errors import UserError
from tokencredit.models.tokens.template import PROBE, Refused, render, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_REFUSED: Final = 0.05
SPLIT: Final = "split at the prompt"
SPELT: Final = "special tokens' names read as text"
OPENED: Final = "opened by the template already"
REFUSED: Final = "refused by the chat template"
_TAG: Final = re.compile(r"([<\[◁][^<>\[\]◁▷\s]+[>\]▷])\s*\Z")
"""A tag such as <think> at the end of what a template writes in front of an answer."""


class SpecialTokens(str, Enum):
    """What names of special tokens in a text are, such as <|im_start|>."""

    text = "text"
    parse = "parse"
    """The tokens themselves, as a tokenizer reads them by itself."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A prompt, and what its answer has to fit."""

    ids: list[int]
    text: str | None
    """The text that an answer continues; None for a conversation."""
    tag: str = ""
    """What the template has opened for the assistant, with the white space behind it."""
    notes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """The ids of an answer up to and with its end token; none for white space alone."""

    ids: list[int]
    notes: frozenset[str] = frozenset()


class TokenIds:
    """Makes the ids of one tokenizer.

    Of what a tokenizer puts around a text, prompts have what opens it (BOS), and nothing that
    closes it. An answer to a conversation ends with the template's end of a turn, if it has one,
    and any other text with the tokenizer's end token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens = SpecialTokens.text
    ) -> None:
        """`special_tokens` says what their names in a text are."""
        self.tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)
        tokens = tokenizer.added_tokens_decoder.items()
        self._special = {str(token): token for _, token in tokens if token.special}
        parse = special_tokens is SpecialTokens.parse
        self.names = None if parse else names_pattern(self._special)
        self.opening, self.closing = around(tokenizer)

    @cached_property
    def turn_end(self) -> int:
        """The id that ends an answer in a conversation."""
        found, pad = turn_end(self.tokenizer), self.tokenizer.pad_token_id
        return self.end if found is None or found == pad else found

    def begin(self, record: Record) -> Begun:
        """The prompt of a record; nothing for a text, which begins by itself."""
        if record.messages is not None:
            return self.converse(record.asked)
        if record.prompt is None:
            return Begun([], "")
        return Begun(self.opened(record.prompt), record.prompt, notes=self._notes(record.prompt))

    def answer(self, begun: Begun, text: str) -> Answer:
        """What follows a prompt.

        Where a vocabulary would join the end of a prompt and the beginning of an answer into one
        token, no policy can say it: the answer is then read by itself. A tag that the template has
        opened, and that the answer opens too, is not repeated.
        """
        if not text.strip():
            return Answer([])
        notes = set(self._notes(text))
        if begun.text is None:
            bare = _without(text, begun.tag)
            notes |= {OPENED} if bare != text else set()
            return Answer(self._ended(self._body(bare), self.turn_end), frozenset(notes))
        whole = self.opened(begun.text + text)
        count = len(begun.ids)
        if whole[:count] == begun.ids:
            return Answer(self._ended(whole[count:], self.end), frozenset(notes))
        return Answer(self._ended(self._body(text), self.end), frozenset({*notes, SPLIT}))

    def between(self, text: str, *, spoken: bool) -> list[int]:
        """What stands between an answer with its end and another answer to the same prompt.

        In a conversation (`spoken`) it is a user's turn that says `text`, up to where the assistant
        begins to answer; else `text`, with an empty line on both sides. A template that takes no
        such turn is a `UserError`.
        """
        if not spoken:
            return self._body(f"\n\n{text}\n\n")
        said = (("user", "?"), ("assistant", PROBE), ("user", text))
        try:
            turns = [{"role": role, "content": content} for role, content in said]
            _, found, rest = render(self.tokenizer, turns).rpartition(PROBE)
        except Refused as refused:
            raise UserError(
                f"judge.separator = {text!r}: the model's chat template takes no user's turn "
                f"behind an answer ({refused}); use a model whose template does"
            ) from refused
        ids = list(self.tokenizer(rest, add_special_tokens=False)["input_ids"])
        if not found or text.strip() not in rest:
            raise UserError(
                f"judge.separator = {text!r}: the model's chat template does not write it behind "
                "an answer; use a model whose template does"
            )
        end = ids.index(self.turn_end) + 1 if self.turn_end in ids[:2] else 0
        return ids[end:]  # the answer has its end

    def example(self, record: Record) -> tuple[list[int], list[int], frozenset[str]]:
        """Prompt and answer of a record, and what is to be noted of them."""
        begun = self.begin(record)
        said = self.answer(begun, record.answer)
        return begun.ids, said.ids, begun.notes | said.notes

    def opened(self, text: str) -> list[int]:
        """A text as it begins, without what the tokenizer puts behind it."""
        if self.spells(text):
            return [*self.opening, *self._body(text)]
        ids = list(self.tokenizer(text)["input_ids"])
        count = len(self.closing)
        return ids[:-count] if count and ids[-count:] == self.closing else ids

    def converse(self, turns: Sequence[Message]) -> Begun:
        """A conversation, up to where the assistant begins to answer. Raises `Refused`."""
        if any(map(self.spells, _said(turns))):
            text, ids = self._careful(turns)
        else:
            text = render(self.tokenizer, turns)
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        tag = _TAG.search(text)
        return Begun(ids, None, "" if tag is None else tag[0], self._notes(*_said(turns)))

    def accepted(self, records: Sequence[Record]) -> tuple[Sequence[Record], Counter[str]]:
        """The records whose conversation the template takes, and how many others there are.

        Raises `UserError` where it takes none, or where there is no template.
        """
        refused = self.refusals(records)
        if not refused:
            return records, Counter()
        kept = [record for record in records if record.row not in refused]
        if not kept:
            check_refused(refused, len(records))
        return kept, Counter({REFUSED: len(refused)})

    def check(self, records: Iterable[Record]) -> None:
        """Raise where the template refuses more than 5 % of all conversations of a data set."""
        spoken = [record for record in records if record.messages is not None]
        check_refused(self.refusals(spoken), len(spoken))

    def refusals(self, records: Iterable[Record]) -> dict[int, str]:
        """What the template says to the conversations that it does not take, by row."""
        found = {}
        for record in records:
            if record.messages is not None:
                try:
                    render(self.tokenizer, record.asked)
                except Refused as refused:
                    found[record.row] = str(refused)
        return found

    def spells(self, text: str) -> bool:
        """Whether names of special tokens stand in a text and are text."""
        return self.names is not None and self.names.search(text) is not None

    def _notes(self, *texts: str) -> frozenset[str]:
        return frozenset({SPELT} if any(map(self.spells, texts)) else ())

    def _ended(self, ids: list[int], end: int) -> list[int]:
        return ids if ids and ids[-1] == end else [*ids, end]

    def _body(self, text: str) -> list[int]:
        """The ids of a text with nothing around it."""
        if not self.spells(text):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = self._split(text)
        control = {self.tokenizer.convert_tokens_to_ids(name) for name in self._special}
        if (control - {self.tokenizer.unk_token_id}).isdisjoint(ids):
            return ids
        # Some vocabularies have their special tokens as pieces of text, too: spell the names out.
        assert self.names is not None
        cuts = [0, *(found.start() + 1 for found in self.names.finditer(text)), len(text)]
        pieces = [text[a:b] for a, b in pairwise(cuts)]
        return [index for piece in pieces for index in self._split(piece)]

    def _split(self, text: str) -> list[int]:
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(found["input_ids"])

    def _careful(self, turns: Sequence[Message]) -> tuple[str, list[int]]:
        """Text and ids of a conversation in which names of special tokens are text.

        The template writes it with marks in place of the names that people wrote, so that those
        that it writes itself can be told from them.
        """
        assert self.names is not None
        written = "".join(_said(turns))
        mark = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in written)
        hidden: list[str] = []

        def hide(found: re.Match[str]) -> str:
            hidden.append(found[0])
            return f"{mark}{len(hidden) - 1}{mark}"

        marked = [{k: self.names.sub(hide, v) for k, v in turn.items()} for turn in turns]
        text = render(self.tokenizer, marked)
        shown = re.compile(f"{mark}(\\d+){mark}")
        pieces = [
            piece if self.names.fullmatch(piece) else shown.sub(lambda m: hidden[int(m[1])], piece)
            for piece in re.split(f"({self.names.pattern})", text)
        ]
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            if place % 2:  # a name that the template wrote
                ids.append(int(self.tokenizer.convert_tokens_to_ids(piece)))
                continue
            before = self._special.get(pieces[place - 1]) if place else None
            after = self._special.get(pieces[place + 1]) if place + 1 < len(pieces) else None
            kept = piece.lstrip() if before is not None and before.rstrip else piece
            ids += self._body(kept.rstrip() if after is not None and after.lstrip else kept)
        return "".join(pieces), ids


def token_ids(tokenizer: PreTrainedTokenizerBase | TokenIds) -> TokenIds:
    """What makes the ids: as it is, or that of a tokenizer with names as text."""
    return tokenizer if isinstance(tokenizer, TokenIds) else TokenIds(tokenizer)


def check_refused(refused: Mapping[int, str], total: int) -> None:
    """Raise where a template refuses more than 5 % of `total` conversations; by row, why."""
    if len(refused) > MAX_REFUSED * total:
        row, reason = min(refused.items())
        raise UserError(
            f"dataset: the model's chat template refuses {len(refused)} of {total} conversations, "
            f"the first in row {row} ({reason}); at most 5 % may be. Change the roles or the order "
            "of those turns, or use a model whose template takes them (model.policy, model.reward)"
        )


def names_pattern(names: Mapping[str, object] | Sequence[str]) -> re.Pattern[str] | None:
    """What finds names of special tokens, the longest first; None where there is none."""
    ordered = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What a tokenizer puts in front of every text, and behind it."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for place in range(len(whole) - len(bare) + 1):
        if whole[place : place + len(bare)] == bare:
            return whole[:place], whole[place + len(bare) :]
    return [], []


def _said(turns: Sequence[Message]) -> list[str]:
    return [text for turn in turns for text in turn.values()]


def _without(text: str, tag: str) -> str:
    """An answer without the tag that its prompt has opened, and the white space both share."""
    name = tag.rstrip()
    inside = text.lstrip()
    if not name or not inside.startswith(name):
        return text
    return inside.removeprefix(name).removeprefix(tag[len(name) :])

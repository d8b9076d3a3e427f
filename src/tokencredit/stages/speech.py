"""What tokenizer and template of a configured model make of the data, asked before any work.

Keys hold only what departs from the plain case: one end token, no ids without a token, a tokenizer
that closes no text, and texts without names of special tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokencredit.console import say
from tokencredit.data.records import Record
from tokencredit.data.splits import Corpus
from tokencredit.data.token_ids import (
    MAX_REFUSED,
    SpecialTokens,
    TokenIds,
    names_pattern,
)
from tokencredit.errors import UserError
from tokencredit.models.loading.model import ModelSource, Pretrained, load_tokenizer
from tokencredit.models.loading.scratch import END, PAD
from tokencredit.models.tokens.ends import SpecialIds, SpokenModel, special_ids
from tokencredit.models.tokens.padding import ensure_pad
from tokencredit.models.tokens.template import MISSING, Refused
from tokencredit.stages.base_model import base_of

if TYPE_CHECKING:
    from tokencredit.stages.context import Context

FIRST: Final = 100
"""Conversations that a template is asked about before all of them are."""
_USUAL: Final = re.compile(r"<\|[^<>|\s]+\|>")
"""The look of special tokens whose tokenizer is not made yet."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How a model reads and ends texts."""

    ids: TokenIds
    """With names of special tokens as text."""
    special: SpecialIds


def departures(context: Context, source: Pretrained) -> dict[str, object]:
    """For a key: what departs from the plain case where this model reads the run's data."""
    corpus, found = context.corpus, []
    voice = voice_of(context, source)
    if voice is not None:
        found += ["several ends"] * bool(voice.special.others)
        found += ["ids without a token"] * bool(voice.special.spare)
        found += ["texts are closed"] * bool(voice.ids.closing)
        found += ["answers open what the template opens"] * _reopened(voice.ids, corpus)
    if context.config.dataset.special_tokens is SpecialTokens.text:
        found += ["names are text"] * (spelt(corpus, _names(source, voice)) > 0)
    return {"ids": found} if found else {}


def check_template(context: Context, source: Pretrained) -> None:
    """Raise where a model has no chat template for the conversations of the data, or refuses them.

    All are looked at only if the first hundred show that too many are refused.
    """
    if not context.corpus.converses:
        return
    if is_ours(source):
        raise UserError(MISSING)
    voice, records = voice_of(context, source), conversations(context.corpus)
    if voice is not None:
        refused = voice.ids.refusals(records[:FIRST])
        if len(refused) > MAX_REFUSED * len(records[:FIRST]):
            voice.ids.check(records)


def say_spelt(context: Context, source: Pretrained) -> None:
    """Say how many records spell out special tokens of a model, where those are read as text."""
    parse = context.config.dataset.special_tokens is SpecialTokens.parse
    count = 0 if parse else spelt(context.corpus, _names(source, voice_of(context, source)))
    if count:
        total = sum(map(context.corpus.size, context.corpus.parts))
        say(
            f"dataset: {count} of {total} records spell out special tokens, which are read as text "
            "(dataset.special_tokens=parse reads the tokens themselves)"
        )


def voice_of(context: Context, source: Pretrained) -> Voice | None:
    """The voice of a model that is there; None for our own, and for one that a stage makes."""
    base = base_of(context, source)
    if is_ours(source) or base.parents():
        return None
    place = base.place()
    folder = Path(place.where)
    files = sorted(p for kind in ("*.json", "*.jinja", "*.model") for p in folder.glob(kind))
    stamp = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return _load(str(place.where), place.revision, stamp)


@lru_cache(maxsize=8)
def _load(where: str, revision: str | None, _stamp: object) -> Voice | None:
    try:
        tokenizer, model = load_tokenizer(where, revision), SpokenModel.at(where, revision)
        ensure_pad(tokenizer)
        return Voice(TokenIds(tokenizer), special_ids(tokenizer, model))
    except (UserError, OSError, ValueError, TypeError, AttributeError):
        return None  # the stage that loads the model says what is wrong with it


def is_ours(source: Pretrained) -> bool:
    """Whether the tokenizer is one that we train: two special tokens, no template."""
    shipped = source.source is ModelSource.package and source.name == "tokencredit"
    return shipped or source.source is ModelSource.scratch


def _names(source: Pretrained, voice: Voice | None) -> re.Pattern[str] | None:
    if voice is not None:
        return voice.ids.names
    return names_pattern([END, PAD]) if is_ours(source) else _USUAL


def spelt(corpus: Corpus, names: re.Pattern[str] | None) -> int:
    """How many records hold names of special tokens."""
    if names is None:
        return 0

    def count() -> int:
        texts = ((record.text, record.rejected or "") for record in corpus.records())
        return sum(any(map(names.search, both)) for both in texts)

    return corpus.ask(f"records that spell out {names.pattern}", count)


def conversations(corpus: Corpus) -> list[Record]:
    """The records that are conversations, in the order of their rows."""
    found = (record for record in corpus.records() if record.messages is not None)
    return sorted(found, key=lambda record: record.row)


def _reopened(ids: TokenIds, corpus: Corpus) -> bool:
    """Whether an answer opens a tag that the template has opened."""
    if not corpus.converses:
        return False
    for record in conversations(corpus)[:FIRST]:
        try:
            name = ids.converse(record.asked).tag.strip()
        except (Refused, UserError):
            continue
        return bool(name) and any(
            each.answer.lstrip().startswith(name) for each in conversations(corpus)
        )
    return False

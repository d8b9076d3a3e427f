"""From a row of a source to its records, by the format that the data set names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from tokencredit.data.contents import (
    NO_ANSWER,
    Said,
    check_characters,
    conversation,
    listed,
    said,
    talk,
    text_of,
)
from tokencredit.data.files import EXTRA, Row
from tokencredit.data.formats import NOTHING, Format, Found, Holds, Reading
from tokencredit.data.preferences import margin_of
from tokencredit.data.records import Dropped, Message, Record, Unusable, plain_text, read_label
from tokencredit.data.transcripts import human_turns
from tokencredit.errors import UserError
from tokencredit.machine.faults import raised
from tokencredit.user_code.guard import guarded
from tokencredit.user_code.plugins import is_ours, place_of

TURNS: Final = ("messages", "conversations")
AT_ONCE: Final = 1000
"""Rows in one call of a format of the user's own: to call it with care takes 0.4 ms."""


class Text(Format):
    """One column, `dataset.text_column`, of whole texts."""

    holds = Holds.texts
    columns = ()

    def needed(self) -> list[tuple[str, ...]]:
        """The column of the text, as the settings call it."""
        return [(self.settings.text_column,)]

    def records(self, number: int, row: Row) -> list[Found]:
        """The text, without HTML if the settings say so."""
        column = self.settings.text_column
        raw = text_of(row.get(column), column)
        text = plain_text(raw) if self.settings.plain_text else raw
        if not text.strip():
            raise Unusable("empty text")
        return [Record(row=number, text=text)]


class PromptCompletion(Format):
    """A prompt with its completion, or alone where that is null or no column."""

    columns = ("prompt",)

    def records(self, number: int, row: Row) -> list[Found]:
        """Prompt and completion as they stand; a conversation where one of them is of messages."""
        prompt, answer = said(row.get("prompt"), "prompt"), row.get("completion")
        completion = None if answer is None else said(answer, "completion")
        if isinstance(prompt, tuple) or isinstance(completion, tuple):
            return [talk(number, (*_turns(prompt, "user"), *_turns(completion, "assistant")))]
        if not prompt.strip() or not (completion is None or completion.strip()):
            raise Unusable(NOTHING)
        text = prompt + (completion or "")
        return [Record(row=number, text=text, prompt=prompt, completion=completion)]


class Messages(Format):
    """A conversation, in the layout of chat services or of ShareGPT."""

    holds = Holds.conversations
    columns = (TURNS,)
    unanswered = NO_ANSWER

    def records(self, number: int, row: Row) -> list[Found]:
        """The conversation of the first of the columns that holds one."""
        given = [row[name] for name in TURNS if row.get(name) is not None]
        return [talk(number, conversation(given[0] if given else []))]


def _turns(value: Said | None, role: str) -> tuple[Message, ...]:
    if value is None or isinstance(value, tuple):
        return value or ()
    return ({"role": role, "content": value},)


def records_of(
    reader: Format, rows: Iterable[Row], dropped: Dropped, seconds: float | None
) -> list[Record]:
    """The records that rows hold; what is of no use is counted in `dropped`.

    A format of the user's own may take so many `seconds` for `AT_ONCE` rows. Raises `UserError`
    for what it raises, and for records that are not what it declares.
    """
    kept = []
    for found in _all_found(reader, rows, seconds):
        try:
            if isinstance(found, Unusable):
                raise found
            check_characters(found)
        except Unusable as reason:
            dropped.add(reason.reason, reason.value)
            continue
        if reader.settings.single_turn and human_turns(found) > 1:
            dropped.filtered["dataset.single_turn"] += 1
        else:
            kept.append(found)
    return kept


def _all_found(reader: Format, rows: Iterable[Row], seconds: float | None) -> Iterator[Found]:
    numbered = enumerate(rows)
    if is_ours(type(reader)):
        for number, row in numbered:
            yield from _found(reader, number, row, reader.records)
        return
    what = f"dataset.format = {reader.name()!r} (of {place_of(type(reader))})"
    while some := list(islice(numbered, AT_ONCE)):  # files are read outside of the guard
        with guarded(what, seconds, f"rows {some[0][0]} to {some[-1][0]}"):
            made = [_found_with_care(reader, number, row, what) for number, row in some]
        for found in made:
            yield from found


def _found_with_care(reader: Format, number: int, row: Row, what: str) -> list[Found]:
    """As `_found`, of a format of the user's own; errors name the row."""

    def records(number: int, row: Row) -> list[Found]:
        made = list(reader.records(number, row))
        for record in made:
            flaw = None if isinstance(record, Unusable) else _flaw(record, reader.holds, number)
            if flaw is not None:
                raise UserError(flaw)
        return made

    try:
        return _found(reader, number, row, records)
    except UserError as error:
        raise UserError(f"{what}: row {number}: {error}") from error
    except Exception as error:
        raise UserError(f"{what}: row {number}: {raised(error)}") from error


def _found(
    reader: Format, number: int, row: Row, records: Callable[[int, Row], Iterable[Found]]
) -> list[Found]:
    try:
        if EXTRA in row:
            raise Unusable("more values than the header names columns", f"row {number}")
        label = _label(reader.settings, row)
        found = list(records(number, row))
        margins = _margins(reader, row, len(found))
    except Unusable as reason:
        return [reason]
    return [
        record
        if isinstance(record, Unusable) or (label is None and margin is None)
        else replace(record, label=label, margin=margin)
        for record, margin in zip(found, margins, strict=True)
    ]


def _flaw(record: object, holds: Holds, number: int) -> str | None:
    """What is wrong with a record that a format of the user's own has made."""
    if not isinstance(record, Record):
        kind = type(record).__name__
        return f"gave a value of type {kind}; give Record of tokencredit.data.records"
    texts = [record.text, record.prompt or "", record.completion or "", record.rejected or ""]
    turns = [turn.get(name) for turn in record.messages or () for name in ("role", "content")]
    if not all(isinstance(text, str) for text in (*texts, *turns)):
        return f"{record}: holds a value that is no text; give text"
    if record.row != number:
        return f"the record has row = {record.row}; hand it the number of its row"
    if (record.rejected is not None) != (holds is Holds.pairs):
        return f"rejected is {record.rejected!r}, but the format holds {holds.value}"
    if record.is_text != (holds is Holds.texts):
        return f"prompt is {record.prompt!r}, but the format holds {holds.value}"
    if holds is Holds.conversations and record.messages is None:
        return f"messages is None, but the format holds {holds.value}"
    return None


def _label(settings: Reading, row: Row) -> int | None:
    if not settings.label_column:
        return None
    value = row.get(settings.label_column)
    label = read_label(value, settings.positive, settings.negative)
    if label is None:
        raise Unusable("unknown label", value)
    return label


def _margins(reader: Format, row: Row, count: int) -> list[float | None]:
    """The margin of each pair of a row, which names one for all or one for each."""
    column = reader.settings.margin_column
    if column is None or reader.holds is not Holds.pairs:
        return [None] * count
    value = listed(row.get(column))
    margins = value if isinstance(value, list) else [value] * count
    if len(margins) != count:
        raise Unusable("margins and pairs differ in number", value)
    return [margin_of(margin) for margin in margins]

"""From a row of a source to its records, by the format that the data set names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from tokencredit.data.contents import check_characters, conversation, listed, said, talk, text_of
from tokencredit.data.files import EXTRA, Row
from tokencredit.data.preferences import (
    Found,
    margin_of,
    read_preference,
    read_ranked,
    read_summaries,
)
from tokencredit.data.records import (
    TURNS,
    Dropped,
    Format,
    Record,
    Unusable,
    plain_text,
    read_label,
)
from tokencredit.data.transcripts import human_turns, read_transcripts

NOTHING: Final = "empty prompt or completion"


class Columns(Protocol):
    """What a data set's settings say about reading one of its rows (see `Dataset`)."""

    format: Format
    text_column: str
    label_column: str | None
    positive: list[str]
    negative: list[str]
    margin_column: str | None
    plain_text: bool
    template: str
    single_turn: bool


Reader = Callable[[Columns, int, Row], list[Found]]


def records_of(spec: Columns, number: int, row: Row, dropped: Dropped) -> list[Record]:
    """The records that row `number` holds; what is of no use is counted in `dropped`."""
    kept = []
    for found in _found(spec, number, row):
        try:
            if isinstance(found, Unusable):
                raise found
            check_characters(found)
        except Unusable as reason:
            dropped.add(reason.reason, reason.value)
            continue
        if spec.single_turn and human_turns(found) > 1:
            dropped.filtered["dataset.single_turn"] += 1
        else:
            kept.append(found)
    return kept


def _found(spec: Columns, number: int, row: Row) -> list[Found]:
    try:
        if EXTRA in row:
            raise Unusable("more values than the header names columns", f"row {number}")
        label = _label(spec, row)
        found = READERS[spec.format](spec, number, row)
        margins = _margins(spec, row, len(found))
    except Unusable as reason:
        return [reason]
    return [
        record
        if isinstance(record, Unusable) or (label is None and margin is None)
        else replace(record, label=label, margin=margin)
        for record, margin in zip(found, margins, strict=True)
    ]


def _label(spec: Columns, row: Row) -> int | None:
    if not spec.label_column:
        return None
    value = row.get(spec.label_column)
    label = read_label(value, spec.positive, spec.negative)
    if label is None:
        raise Unusable("unknown label", value)
    return label


def _margins(spec: Columns, row: Row, count: int) -> list[float | None]:
    """The margin of each pair of a row, which names one for all or one for each."""
    if spec.margin_column is None or spec.format not in PAIRS:
        return [None] * count
    value = listed(row.get(spec.margin_column))
    margins = value if isinstance(value, list) else [value] * count
    if len(margins) != count:
        raise Unusable("margins and pairs differ in number", value)
    return [margin_of(margin) for margin in margins]


def _text(spec: Columns, number: int, row: Row) -> Record:
    raw = text_of(row.get(spec.text_column), spec.text_column)
    text = plain_text(raw) if spec.plain_text else raw
    if not text.strip():
        raise Unusable("empty text")
    return Record(row=number, text=text)


def _prompt_completion(number: int, row: Row) -> Record:
    """A prompt with its completion, or alone where that is null or no column."""
    prompt, answer = said(row.get("prompt"), "prompt"), row.get("completion")
    completion = None if answer is None else said(answer, "completion")
    if isinstance(prompt, tuple) or isinstance(completion, tuple):
        return talk(number, (*_turns(prompt, "user"), *_turns(completion, "assistant")))
    if not prompt.strip() or not (completion is None or completion.strip()):
        raise Unusable(NOTHING)
    text = prompt + (completion or "")
    return Record(row=number, text=text, prompt=prompt, completion=completion)


def _turns(value: str | tuple[dict[str, str], ...] | None, role: str) -> tuple[dict[str, str], ...]:
    if value is None or isinstance(value, tuple):
        return value or ()
    return ({"role": role, "content": value},)


def _messages(number: int, row: Row) -> Record:
    given = [row[name] for name in TURNS if row.get(name) is not None]
    return talk(number, conversation(given[0] if given else []))


READERS: Final[Mapping[Format, Reader]] = {
    Format.text: lambda spec, number, row: [_text(spec, number, row)],
    Format.prompt_completion: lambda _, number, row: [_prompt_completion(number, row)],
    Format.messages: lambda _, number, row: [_messages(number, row)],
    Format.preference: lambda _, number, row: read_preference(number, row),
    Format.hh: lambda _, number, row: [read_transcripts(number, row)],
    Format.summaries: lambda spec, number, row: [read_summaries(number, row, spec.template)],
    Format.ranked: lambda _, number, row: read_ranked(number, row),
}
PAIRS: Final = (Format.preference, Format.hh, Format.summaries, Format.ranked)

"""From a row of a source to a record, by the format that the data set names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tokencredit.data.preferences import read_preference, read_summaries
from tokencredit.data.records import (
    Dropped,
    Format,
    Record,
    Unusable,
    parse_messages,
    plain_text,
    read_label,
)
from tokencredit.data.sources import Row
from tokencredit.data.transcripts import human_turns, read_transcripts

if TYPE_CHECKING:
    from tokencredit.data.dataset import Dataset

Reader = Callable[["Dataset", int, Row], Record]


def record_of(spec: Dataset, number: int, row: Row, dropped: Dropped) -> Record | None:
    """The record that row `number` holds; None, and a count in `dropped`, if it is of no use."""
    try:
        label = _label(spec, row)
        record = READERS[spec.format](spec, number, row)
    except Unusable as found:
        dropped.add(found.reason, found.value)
        return None
    if spec.single_turn and human_turns(record) > 1:
        dropped.filtered["dataset.single_turn"] += 1
        return None
    return record if label is None else replace(record, label=label)


def _label(spec: Dataset, row: Row) -> int | None:
    if not spec.label_column:
        return None
    value = row.get(spec.label_column)
    label = read_label(value, spec.positive, spec.negative)
    if label is None:
        raise Unusable("unknown label", value)
    return label


def _text(spec: Dataset, number: int, row: Row) -> Record:
    raw = str(row.get(spec.text_column) or "")
    text = plain_text(raw) if spec.plain_text else raw
    if not text.strip():
        raise Unusable("empty text")
    return Record(row=number, text=text)


def _prompt_completion(number: int, row: Row) -> Record:
    prompt, completion = str(row.get("prompt") or ""), str(row.get("completion") or "")
    if not prompt.strip() or not completion.strip():
        raise Unusable("empty prompt or completion")
    return Record(row=number, text=prompt + completion, prompt=prompt, completion=completion)


def _messages(number: int, row: Row) -> Record:
    messages = parse_messages(row.get("messages"))
    if messages is None:
        raise Unusable("messages without a final assistant turn")
    text = "\n".join(turn["content"] for turn in messages)
    return Record(row=number, text=text, messages=messages)


READERS: Final[Mapping[Format, Reader]] = {
    Format.text: _text,
    Format.prompt_completion: lambda _, number, row: _prompt_completion(number, row),
    Format.messages: lambda _, number, row: _messages(number, row),
    Format.preference: lambda _, number, row: read_preference(number, row),
    Format.hh: lambda _, number, row: read_transcripts(number, row),
    Format.summaries: lambda spec, number, row: read_summaries(number, row, spec.template),
}

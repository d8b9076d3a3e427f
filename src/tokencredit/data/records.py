"""One record of a data set, whatever file it came from."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tokencredit.errors import UserError

Message = dict[str, str]


class Format(str, Enum):
    """How the columns of a data set are to be read."""

    text = "text"
    prompt_completion = "prompt_completion"
    messages = "messages"
    preference = "preference"
    hh = "hh"
    summaries = "summaries"


COLUMNS = {
    Format.text: ("text",),
    Format.prompt_completion: ("prompt", "completion"),
    Format.messages: ("messages",),
    Format.preference: ("chosen", "rejected"),
    Format.hh: ("chosen", "rejected"),
    Format.summaries: ("info", "summaries", "choice"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A demonstration, with a label where the source has one.

    `row` is its position in the source and names its random streams.
    """

    row: int
    text: str
    """The whole text; for conversations the contents, a line each (used for grouping only)."""
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] | None = None
    rejected: str | None = None
    """The answer that lost against `completion`, or against the last turn of `messages`."""
    label: int | None = None
    """1 for positive, 0 for negative."""

    @property
    def answer(self) -> str:
        """What follows the prompt; the whole text where the record names no prompt."""
        if self.messages is not None:
            return self.messages[-1]["content"]
        return self.text if self.completion is None else self.completion


class Unusable(Exception):
    """A row that makes no record, and why."""

    def __init__(self, reason: str, value: object = None) -> None:
        """`reason` is what such rows are counted under; `value` an example of what was found."""
        Exception.__init__(self, reason)
        self.reason = reason
        self.value = value


EXAMPLES = 5


@dataclass(slots=True)
class Dropped:
    """Records that could not be used, counted by reason, with a few examples of the values."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    filtered: Counter[str] = field(default_factory=Counter)
    """Usable records that a setting leaves out, by the setting; no sign of bad data."""

    def add(self, reason: str, value: object = None) -> None:
        """Count one more record dropped for `reason`."""
        self.counts[reason] += 1
        seen = self.examples.setdefault(reason, [])
        text = str(value)[:20]
        if value is not None and len(seen) < EXAMPLES and text not in seen:
            seen.append(text)

    def summary(self) -> str:
        """The reasons with their counts and examples."""
        parts = []
        for reason, count in self.counts.most_common():
            values = ", ".join(map(repr, self.examples[reason]))
            parts.append(f"{reason}: {count}" + (f", e.g. {values}" if values else ""))
        return "; ".join(parts)


_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_WORDS = re.compile(r"[\W_]+")


def plain_text(text: str) -> str:
    """`text` without HTML line breaks and entities, white space folded."""
    return _SPACES.sub(" ", html.unescape(_BREAK.sub(" ", text))).strip()


def normalised(text: str) -> str:
    """What two copies of a text have in common: its letters and digits, in lower case."""
    return _WORDS.sub(" ", text.casefold()).strip() or text


def read_label(value: object, positive: Iterable[str], negative: Iterable[str]) -> int | None:
    """1, 0, or None for a value that is neither; case does not matter, 1.0 may stand for 1."""
    text = str(value).strip().lower()
    forms = {text, text.removesuffix(".0")}
    for label, names in ((1, positive), (0, negative)):
        if forms & {name.strip().lower() for name in names}:
            return label
    return None


def require_columns(row: Mapping[str, object], wanted: Iterable[str], where: str) -> None:
    """Raise unless every wanted column stands in `row`."""
    missing = [name for name in wanted if name not in row]
    if missing:
        raise UserError(
            f"dataset: {where} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, row))}. Set dataset.format ({' | '.join(Format)}), "
            "dataset.text_column or dataset.label_column"
        )


def parse_messages(value: object) -> tuple[Message, ...] | None:
    """The turns of a conversation that ends with the assistant, or None if it is not one."""
    if not isinstance(value, list) or len(value) < 2:
        return None
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            return None
        turns.append({"role": str(turn["role"]), "content": str(turn["content"])})
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        return None
    return tuple(turns)

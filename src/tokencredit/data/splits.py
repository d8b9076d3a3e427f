"""Disjoint splits that depend on the content of a record and on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, TypeVar

from tokencredit.data.records import Dropped, Message, Record, normalised
from tokencredit.data.transcripts import ASSISTANT
from tokencredit.errors import UserError, require
from tokencredit.fields import Settings, number

FINGERPRINT_LENGTH = 16
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Splits(Settings):
    """Share of the records for each purpose; copies of one text always land together."""

    section: ClassVar[str] = "dataset.splits"

    sft: float = number(0.4, at_least=0, at_most=1)
    """Demonstrations for supervised fine-tuning."""
    reward: float = number(0.3, at_least=0, at_most=1)
    """Training of the reward model."""
    rl: float = number(0.15, at_least=0, at_most=1)
    """Prompts of the RL run."""
    oracle: float = number(0.1, at_least=0, at_most=1)
    """Training of the independent classifier that evaluates the result."""
    eval: float = number(0.05, at_least=0, at_most=1)
    """Held-out records: accuracy of the reward model, prompts of the evaluation."""

    def __post_init__(self) -> None:
        """Check that the shares make a whole."""
        Settings.__post_init__(self)
        total = sum(getattr(self, share.name) for share in fields(self))
        require(
            abs(total - 1) < 1e-9, "dataset.splits", round(total, 6), "the shares must sum to 1"
        )


class Objective(str, Enum):
    """What tells a good answer from a bad one."""

    auto = "auto"
    labels = "labels"
    pairs = "pairs"


@dataclass(frozen=True, slots=True)
class Corpus:
    """The records of every split, in the order of the source."""

    parts: Mapping[str, tuple[Record, ...]]
    fingerprints: dict[str, str]
    dropped: Dropped
    duplicates: int
    """Records that repeat an earlier one's normalised prompt, or text where there is none."""
    answers: dict[str, Any] = field(default_factory=dict)
    """What has been asked about the records before, by question."""

    def ask(self, question: str, find: Callable[[], T]) -> T:
        """What `find` finds out about the records: a number, a text, or a truth value.

        It is remembered, from one command to the next (`data.remembered`), so `question` names all
        that it depends on beside records and code. What it raises is not: it is raised again.
        """
        if question not in self.answers:
            self.answers[question] = find()
        found: T = self.answers[question]
        return found

    def size(self, split: str) -> int:
        """How many records a split has."""
        return self.ask(f"records of {split}", lambda: len(self.parts[split]))

    def objective(self, wanted: Objective) -> Objective:
        """What can be learnt from these records: pairs where they are pairs, unless else wanted."""
        if wanted is not Objective.auto:
            return wanted
        paired = self.ask("any pairs", lambda: any(r.rejected is not None for r in self.records()))
        return Objective.pairs if paired else Objective.labels

    def records(self) -> Iterator[Record]:
        """The records of all splits, one after the other."""
        return (record for part in self.parts.values() for record in part)

    def check_answers(self, need: str, remedy: str) -> None:
        """Raise if the records are prompts without answers, from which `need` cannot learn."""
        alone = self.ask("prompts alone", lambda: sum(not r.answered for r in self.records()))
        if alone:
            total = sum(map(self.size, self.parts))
            raise UserError(
                f"dataset: {alone} of {total} records are prompts without an answer, from "
                f"which {need} cannot learn; {remedy}, or bring answers (a column completion, or "
                "conversations that end with the assistant)"
            )

    @property
    def margins(self) -> bool:
        """Whether any pair says by how much its better answer should win."""
        return self.ask("any margins", lambda: any(record.margin for record in self.records()))

    @property
    def converses(self) -> bool:
        """Whether any record is a conversation."""
        return self.ask("any conversations", lambda: any(r.messages for r in self.records()))

    def check_labelled(self, split: str) -> None:
        """As `labelled`, for the error alone."""
        self.ask(f"both classes in {split}", lambda: bool(self.labelled(split)))

    def check_pairs(self, split: str, otherwise: str = "") -> None:
        """As `pairs`, for the error alone."""
        self.ask(f"pairs alone in {split}", lambda: bool(self.pairs(split, otherwise)))

    def labelled(self, split: str) -> tuple[Record, ...]:
        """The records of a split, which must hold both classes."""
        records = self.parts[split]
        classes = {record.label for record in records}
        if classes != {0, 1}:
            found = "no labels" if classes in (set(), {None}) else f"only class {classes}"
            raise UserError(
                f"dataset: the {split} split ({len(records)} records) has {found}; a sentiment "
                "reward model and the oracle need positive and negative records "
                "(dataset.label_column, dataset.positive, dataset.negative)"
            )
        return records

    def pairs(self, split: str, otherwise: str = "") -> tuple[Record, ...]:
        """The records of a split, which must all be preference pairs.

        `otherwise` is what somebody without pairs can do, as the error shall say it.
        """
        records = self.parts[split]
        require(
            bool(records),
            f"dataset.splits.{split}",
            0.0,
            "preference learning needs pairs here; give the split a share above 0",
        )
        single = sum(record.rejected is None for record in records)
        if single:
            raise UserError(
                f"dataset: {single} of {len(records)} records of the {split} split have no "
                "rejected answer; preference learning needs pairs (dataset=hh_helpful, "
                "hh_harmless, or a file with the columns chosen and rejected)" + otherwise
            )
        return records


def _content(record: Record) -> tuple[object, ...]:
    said: tuple[object, ...] = (
        record.row,
        record.text,
        record.prompt,
        record.completion,
        record.messages,
        record.label,
    )
    if record.rejected is not None:
        said = (*said, record.rejected)
    return said if record.margin is None else (*said, ("margin", record.margin))


def _said(turns: Iterable[Message]) -> str:
    return normalised("\n".join(turn["content"] for turn in turns))


def prompt_key(record: Record) -> str:
    """What copies have in common: the prompt where there is one, else the text; normalised."""
    if record.messages is not None:
        return _said(record.asked)
    return normalised(record.prompt if record.prompt is not None else record.text)


def group_key(record: Record) -> str:
    """What decides the split: a conversation's beginning up to its first question, else the prompt.

    Collections of dialogues hold many a conversation several times, each time one turn longer.
    """
    if record.messages is not None:
        roles = [turn["role"] for turn in record.asked]
        end = roles.index("user") + 1 if "user" in roles else len(roles)
        return _said(record.asked[:end])
    if record.prompt is not None and ASSISTANT in record.prompt:
        return normalised(record.prompt.partition(ASSISTANT)[0])
    return prompt_key(record)


def split_of(key: str, splits: Splits) -> str:
    """The split of a group: its hash as a fraction, looked up among the cumulated shares."""
    digest = hashlib.sha256(f"tokencredit split\n{key}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    bound = 0.0
    for share in fields(splits):
        bound += getattr(splits, share.name)
        if fraction < bound:
            return share.name
    return fields(splits)[-1].name


def split_records(records: Sequence[Record], splits: Splits, dropped: Dropped) -> Corpus:
    """`records` dealt to the splits, with a fingerprint of each."""
    parts: dict[str, list[Record]] = {share.name: [] for share in fields(splits)}
    seen: set[str] = set()
    for record in records:
        seen.add(prompt_key(record))
        parts[split_of(group_key(record), splits)].append(record)
    for name, part in parts.items():
        require(
            bool(part) or getattr(splits, name) == 0,
            f"dataset.splits.{name}",
            getattr(splits, name),
            f"no record of {len(records)} falls into this split; use more data or a larger share",
        )
    return Corpus(
        parts={name: tuple(part) for name, part in parts.items()},
        fingerprints={name: fingerprint(part) for name, part in parts.items()},
        dropped=dropped,
        duplicates=len(records) - len(seen),
    )


def fingerprint(records: Iterable[Record]) -> str:
    """A hash of what the records say, in order."""
    total = hashlib.sha256()
    for record in records:
        total.update(hashlib.sha256(repr(_content(record)).encode()).digest())
    return total.hexdigest()[:FINGERPRINT_LENGTH]

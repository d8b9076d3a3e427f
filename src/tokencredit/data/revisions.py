"""Answers that lost, revised: what a reviser is asked, how its reply is read, what is dropped."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from string import Template
from typing import Final

from tokencredit.data.edits import edit_ratio
from tokencredit.data.records import Message, Record

BEGINS: Final = "[[REVISED ANSWER BEGINS]]"
ENDS: Final = "[[REVISED ANSWER ENDS]]"
"""What a reply must hold once each, the revised answer between them."""
REMINDER: Final = (
    "\n\n(This is request {number}: an earlier reply could not be used. Write the reason, then the "
    "line " + BEGINS + ", the revised answer, and the line " + ENDS + ".)"
)
HEADING: Final = re.compile(r"^[\s*_#>`]*reason[\s*_`]*:", re.IGNORECASE)
PIECES: Final = re.compile(r"\w+|[^\w\s]")
"""Words and punctuation marks: what edit ratios count."""
FOREIGN: Final = 0.2
"""A revision with a larger share of letters in scripts that its pair does not use is dropped."""
LAST: Final = frozenset(".!?…\"'”’)]}:;*`")
"""What a whole answer may end with."""


class Flaw(str, Enum):
    """Why there is no revision of a pair; such pairs are dropped, and counted by these words."""

    no_begin = "no start marker"
    no_end = "no end marker"
    repeated = "markers repeated"
    reason_alone = "reason alone"
    empty = "empty"
    cut = "cut off"
    identical = "identical"
    over_edited = "over-edited"
    language = "another language"
    refused = "refused"
    rejected = "request rejected"
    too_long = "longer than the context"
    missing = "not in the file"
    nothing = "no word of the list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A preference pair as text."""

    row: int
    """The record's position in the data."""
    prompt: str
    """What both answer; of a conversation its turns, as `transcript` writes them."""
    chosen: str
    rejected: str
    messages: tuple[Message, ...] = ()
    """The turns of a conversation that both answer; none for a prompt that is a string."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A rejected answer after its edits, and why they were made, where the reviser says so."""

    text: str
    reason: str | None = None


def transcript(turns: tuple[Message, ...]) -> str:
    """A conversation as a reviser reads it: each turn begins a line, with the speaker's role."""
    return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def contest_of(record: Record) -> Contest:
    """The pair in a record that holds one."""
    assert record.rejected is not None
    spoken = record.messages is not None
    return Contest(
        row=record.row,
        prompt=transcript(record.asked) if spoken else record.prompt or "",
        chosen=record.answer,
        rejected=record.rejected,
        messages=record.asked if spoken else (),
    )


def row_of(contest: Contest, revision: Revision) -> dict[str, object]:
    """One line of revisions.jsonl; `record_of` reads it."""
    turns = {"messages": [dict(turn) for turn in contest.messages]} if contest.messages else {}
    return {
        "row": contest.row,
        "prompt": contest.prompt,
        "chosen": contest.chosen,
        "rejected": contest.rejected,
        "revised": revision.text,
        "reason": revision.reason,
        **turns,
    }


def record_of(row: Mapping[str, object]) -> Record:
    """The pair of a line of revisions.jsonl, the revised answer first: what `TokenIds` reads, so
    that the ids of both answers are those that a policy says."""
    revised, turns = str(row["revised"]), row.get("messages")
    messages: tuple[Message, ...] | None = None
    if isinstance(turns, list):
        asked = tuple({str(k): str(v) for k, v in turn.items()} for turn in turns)
        messages = (*asked, {"role": "assistant", "content": revised})
    return Record(
        row=int(str(row["row"])),
        text=f"{row['prompt']}{revised}",
        prompt=None if messages else str(row["prompt"]),
        completion=None if messages else revised,
        messages=messages,
        rejected=str(row["rejected"]),
    )


def request_text() -> str:
    """The text of a request, with $prompt, $chosen, and $rejected where a pair stands."""
    place = resources.files("tokencredit") / "assets" / "revise.txt"
    return place.read_text(encoding="utf-8")


def request(contest: Contest, text: str) -> str:
    """What a model is asked to revise this pair; dollar signs in the pair stay as they are."""
    return Template(text).substitute(
        prompt=contest.prompt.strip(),
        chosen=contest.chosen.strip(),
        rejected=contest.rejected.strip(),
    )


def parse(reply: str, *, cut: bool = False) -> Revision | Flaw:
    """The revision in a reply, or what is wrong with the reply.

    Nothing but what stands between the two markers, each there once, is ever a revision. `cut`: the
    length limit ended the reply, which is a flaw unless the end marker had been said.
    """
    flaw = _malformed(reply, cut=cut)
    if flaw is not None:
        return flaw
    before, _, after = reply.partition(BEGINS)
    revised = after.partition(ENDS)[0].strip()
    reason = HEADING.sub("", before.strip()).strip() or None
    if not revised:
        return Flaw.reason_alone if reason else Flaw.empty
    if HEADING.match(revised) or revised == reason:
        return Flaw.reason_alone
    return Revision(revised, reason)


def _malformed(reply: str, *, cut: bool) -> Flaw | None:
    """Why a reply does not have one end marker behind one start marker; None where it has."""
    begins, ends = reply.count(BEGINS), reply.count(ENDS)
    if begins > 1 or ends > 1:
        return Flaw.repeated
    if cut and not (begins and ends):
        return Flaw.cut
    if not reply.strip():
        return Flaw.empty
    if not begins:
        return Flaw.reason_alone if HEADING.match(reply) and not ends else Flaw.no_begin
    return Flaw.no_end if reply.find(ENDS) < reply.find(BEGINS) else None


def fitted(contest: Contest, revision: Revision) -> Revision:
    """The revision with the white space that stands around the rejected answer, which no edit of
    the text is to change: a model's reply has lost it."""
    old, body = contest.rejected, revision.text.strip()
    start = len(old) - len(old.lstrip())
    end = len(old.rstrip())
    return Revision(f"{old[:start]}{body}{old[end:]}" if body else "", revision.reason)


def pieces(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return PIECES.findall(text)


def text_edit_ratio(before: str, after: str) -> float:
    """Words and punctuation marks that were deleted, added, or substituted, as a share of those of
    the longer text; 0 where nothing changed."""
    numbers: dict[str, int] = {}
    old, new = (
        [numbers.setdefault(piece, len(numbers)) for piece in pieces(text)]
        for text in (before, after)
    )
    return edit_ratio(old, new)


def flaw_of(contest: Contest, revised: str, most: float) -> Flaw | None:
    """Why the text is no revision of the rejected answer; None for a usable one.

    `most`: the largest edit ratio that passes. A text is taken to be cut off where it ends within a
    sentence and the rejected answer does not. Another language is noticed by its script; one that
    shares the script changes nearly every word, and is over-edited.
    """
    new, old = revised.strip(), contest.rejected.strip()
    if not new:
        return Flaw.empty
    if new == old:
        return Flaw.identical
    if old and old[-1] in LAST and new[-1] not in LAST and new[-1].isascii():
        return Flaw.cut
    if foreign_share(new, contest.prompt + contest.chosen + contest.rejected) > FOREIGN:
        return Flaw.language
    return Flaw.over_edited if text_edit_ratio(old, new) > most else None


def foreign_share(text: str, known: str) -> float:
    """The share of a text's letters in scripts that `known` does not use; 0 without letters."""
    scripts = _scripts(text)
    total = sum(scripts.values())
    own = set(_scripts(known))
    return sum(n for script, n in scripts.items() if script not in own) / total if total else 0.0


def _scripts(text: str) -> Counter[str]:
    """Letters by script, which is the first word of a letter's Unicode name: LATIN, CYRILLIC."""
    letters = (character for character in text if character.isalpha())
    return Counter(unicodedata.name(letter, "UNKNOWN").partition(" ")[0] for letter in letters)

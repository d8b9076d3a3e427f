r"""Conversations in one string, as Anthropic's HH-RLHF writes them: `\n\nHuman: …\n\nAssistant: …`.

A pair has two such strings, `chosen` and `rejected`, that differ in their last turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from tokencredit.data.contents import talk, text_of
from tokencredit.data.files import Row
from tokencredit.data.formats import Format, Found, Holds
from tokencredit.data.preferences import DIFFERENT, check_answers, pair
from tokencredit.data.records import Message, Record, Unusable

HUMAN: Final = "\n\nHuman:"
ASSISTANT: Final = "\n\nAssistant:"
UNFINISHED: Final = "no final Assistant turn"
_MARK: Final = re.compile(f"({HUMAN}|{ASSISTANT})")


class Turn(NamedTuple):
    """What somebody says: the mark that stands before it, and the text up to the next mark."""

    mark: str
    """HUMAN, ASSISTANT, or nothing for what stands before the first mark."""
    said: str


def parse(transcript: str) -> list[Turn]:
    """The turns of a transcript, nothing lost: `join` gives it back as it was."""
    before, *pieces = _MARK.split(transcript)
    turns = [Turn(*two) for two in zip(pieces[::2], pieces[1::2], strict=True)]
    return [Turn("", before), *turns] if before else turns


def join(turns: Iterable[Turn]) -> str:
    """The transcript of these turns."""
    return "".join(turn.mark + turn.said for turn in turns)


def last_answer(transcript: str) -> tuple[str, str]:
    """Everything up to and with the last `Assistant:`, and what follows it."""
    turns = parse(transcript)
    if not turns or turns[-1].mark != ASSISTANT:
        raise Unusable(UNFINISHED, transcript[-20:])
    return join(turns[:-1]) + ASSISTANT, turns[-1].said


class HH(Format):
    """A pair of transcripts (`chosen`, `rejected`) behind the prompt that they share."""

    holds = Holds.pairs
    columns = ("chosen", "rejected")

    def records(self, number: int, row: Row) -> list[Found]:
        """The pair of their last answers."""
        prompt, (chosen, rejected) = _pair(number, row)
        return [pair(number, prompt, chosen, rejected)]


class HHChat(HH):
    """The same pair as a conversation, which the policy's chat template writes: the human's turns
    are a user's, and what is said loses the white space around it."""

    @classmethod
    def name(cls) -> str:
        """Beside hh."""
        return "hh_chat"

    def records(self, number: int, row: Row) -> list[Found]:
        """The pair of their last answers, behind the turns before them."""
        prompt, (chosen, rejected) = _pair(number, row)
        turns = parse(prompt)[:-1]
        if not turns or not turns[0].mark:
            raise Unusable("no Human turn at the beginning", f"row {number}")
        check_answers(number, chosen, rejected)
        asked = [_message(*turn) for turn in turns]
        return [talk(number, (*asked, _message(ASSISTANT, chosen)), rejected=rejected.strip())]


def _pair(number: int, row: Row) -> tuple[str, tuple[str, str]]:
    """What both transcripts begin with, and their last answers."""
    prompt, chosen = last_answer(_transcript(row, "chosen"))
    other, rejected = last_answer(_transcript(row, "rejected"))
    if prompt != other:
        raise Unusable(DIFFERENT, f"row {number}")
    return prompt, (chosen, rejected)


def _message(mark: str, said: str) -> Message:
    return {"role": "user" if mark == HUMAN else "assistant", "content": said.strip()}


def _transcript(row: Row, name: str) -> str:
    """The transcript in a column; one whose lines all end as on Windows is read like any other."""
    text = text_of(row.get(name), name)
    return text if ASSISTANT in text else text.replace("\r\n", "\n")


def human_turns(record: Record) -> int:
    """How often somebody other than the assistant speaks before the answer."""
    if record.messages is not None:
        return sum(turn["role"] == "user" for turn in record.messages)
    return sum(turn.mark == HUMAN for turn in parse(record.prompt or ""))

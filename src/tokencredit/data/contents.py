"""What a value of a row says: text, one message, or a conversation. Anything else is of no use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tokencredit.data.records import Message, Record, Unusable

Said = str | tuple[Message, ...]
"""A text, or the turns of a conversation."""

NO_ANSWER: Final = "messages without a final assistant turn"
ASKS: Final = ("user", "tool", "function", "ipython")
"""Roles after which the assistant is to speak."""
TEXT_PARTS: Final = (None, "text", "input_text", "output_text")
SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""What ShareGPT calls the roles."""
MARK: Final = "\ufeff"
"""A byte order mark, which programs of one vendor put in front of texts."""
_WRITTEN: Final = re.compile(r"\s*\[?\s*\{\s*['\"](?:role|from)['\"]\s*:")
_NO_TEXT: Final = re.compile("[\x00\ud800-\udfff]")


def text_of(value: object, name: str) -> str:
    """The text of a value; null says nothing, and the parts of a list are joined.

    A part is a string, or a mapping with `text` (and a type that says so): the layout of chat
    services. `name` is what the value is called in the reason why it is `Unusable`.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.removeprefix(MARK)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list):
        return "".join(_part(part, name) for part in value)
    raise Unusable(f"{name} is not text but {type(value).__name__}", value)


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(text, str):
        kind = part.get("type", sorted(map(str, part))) if isinstance(part, Mapping) else part
        raise Unusable(f"{name} has a part that is not text", kind)
    if part.get("type") not in TEXT_PARTS:
        raise Unusable(f"{name} has a part that is not text", part["type"])
    return text


def message_of(value: object) -> Message:
    """One turn: `role` and `content`, or ShareGPT's `from` and `value`.

    Content may be absent where the assistant calls a tool instead; only role and content are read.
    """
    if not isinstance(value, Mapping):
        raise Unusable("a turn that is not a message", value)
    if value.get("role") is None and value.get("from") is not None:
        speaker = SPEAKERS.get(str(value["from"]))
        if speaker is None:
            raise Unusable("a turn of an unknown speaker", value["from"])
        return {"role": speaker, "content": text_of(value.get("value"), "a message")}
    role = value.get("role")
    if not isinstance(role, str) or not role.strip():
        raise Unusable("a message without a role", role)
    if "content" not in value and not (value.get("tool_calls") or value.get("function_call")):
        raise Unusable("a message without content", sorted(map(str, value)))
    return {"role": role, "content": text_of(value.get("content"), "a message")}


def is_message(value: object) -> bool:
    """Whether a value is meant as a turn of a conversation, rather than as a part of one."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def said(value: object, name: str) -> Said:
    """What a prompt or an answer says: text, or turns; one message stands for a list of one."""
    value = decoded(value)
    if is_message(value):
        value = [value]
    if isinstance(value, list) and any(map(is_message, value)):
        return tuple(map(message_of, value))
    return text_of(value, name)


def decoded(value: object) -> object:
    """`value`, or the conversation that it holds as JSON, as tables of text must."""
    if not isinstance(value, str) or not _WRITTEN.match(value):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise Unusable("a conversation written as text that is not JSON", value) from None
    return found if is_message(found) or isinstance(found, list) else value


def listed(value: object) -> object:
    """`value`, or the list that it holds as JSON, for columns that cannot be meant as text."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def conversation(value: object) -> tuple[Message, ...]:
    """The turns of a column that must hold some."""
    found = said(value, "messages")
    if isinstance(found, tuple):
        return found
    raise Unusable("messages is not a list of messages" if value else NO_ANSWER, value)


def talk(number: int, turns: tuple[Message, ...], **more: Any) -> Record:
    """The record of a conversation, which ends with the assistant, or asks it to speak."""
    last = turns[-1] if turns else {"role": "", "content": ""}
    answered = last["role"] == "assistant" and len(turns) > 1
    if not last["content"].strip() or not (answered or last["role"] in ASKS):
        raise Unusable(NO_ANSWER)
    text = "\n".join(turn["content"] for turn in turns)
    return Record(row=number, text=text, messages=turns, **more)


def check_characters(record: Record) -> None:
    """Raise `Unusable` for text that cannot be written as UTF-8, or holds a NUL character.

    JSON can spell half of a surrogate pair, an emoji cut in two, of which no tokenizer makes ids.
    Libraries in C take NUL for the end of a text.
    """
    for text in _texts(record):
        found = _NO_TEXT.search(text)
        if found:
            reason = "a NUL character" if found[0] == "\x00" else "not valid Unicode"
            raise Unusable(reason, f"row {record.row}")


def _texts(record: Record) -> Iterable[str]:
    yield from filter(None, (record.text, record.prompt, record.completion, record.rejected))
    for turn in record.messages or ():
        yield from turn.values()

"""Pairs of answers to one prompt, one of them preferred, in the schemas they are published in."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, Final

from tokencredit.data.records import Message, Record, Unusable, parse_messages
from tokencredit.data.sources import Row
from tokencredit.errors import require

EMPTY: Final = "empty response"
SAME: Final = "chosen equals rejected"
DIFFERENT: Final = "prompts differ"
TEMPLATE: Final = "### Text to Summarize: {post}\n ### Summary: "
"""The prompt of the summarisation experiments of Chan et al. 2024, as their code writes it."""
FIELDS: Final = ("post", "title", "subreddit")
"""What of a forum post a template may name."""


def pair(number: int, prompt: str, chosen: str, rejected: str) -> Record:
    """The record of a prompt with two answers, both of which say something, and not the same."""
    check_answers(number, chosen, rejected)
    return Record(
        row=number, text=prompt + chosen, prompt=prompt, completion=chosen, rejected=rejected
    )


def check_answers(number: int, chosen: str, rejected: str) -> None:
    """Raise `Unusable` for answers between which nobody could choose."""
    if not chosen.strip() or not rejected.strip():
        raise Unusable(EMPTY, f"row {number}")
    if chosen.strip() == rejected.strip():
        raise Unusable(SAME, f"row {number}")


def read_preference(number: int, row: Row) -> Record:
    """A pair from the columns prompt, chosen, rejected: strings, or lists of chat messages.

    Messages of `chosen` and `rejected` may begin with the conversation (then `prompt` is not
    needed) or hold the answer alone. This is the layout of trl-lib/tldr-preference,
    Dahoas/full-hh-rlhf, and of TRL's preference data sets in general.
    """
    prompt, chosen, rejected = (row.get(name) for name in ("prompt", "chosen", "rejected"))
    if isinstance(prompt, list) or isinstance(chosen, list) or isinstance(rejected, list):
        return _conversations(number, prompt, chosen, rejected)
    if not str(prompt or "").strip():
        raise Unusable("no prompt", f"row {number}")
    return pair(number, str(prompt), str(chosen or ""), str(rejected or ""))


def _conversations(number: int, prompt: Any, chosen: Any, rejected: Any) -> Record:
    won, lost = (_turns(prompt, answer) for answer in (chosen, rejected))
    if won[:-1] != lost[:-1]:
        raise Unusable(DIFFERENT, f"row {number}")
    check_answers(number, won[-1]["content"], lost[-1]["content"])
    text = "\n".join(turn["content"] for turn in won)
    return Record(row=number, text=text, messages=won, rejected=lost[-1]["content"])


def _turns(prompt: Any, answer: Any) -> tuple[Message, ...]:
    """The conversation that ends with `answer`, which may have its beginning in front of it."""
    turns = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer or ""}]
    if isinstance(prompt, list) and turns[: len(prompt)] != prompt:
        turns = [*prompt, *turns]
    elif len(turns) == 1 and prompt:
        turns = [{"role": "user", "content": str(prompt)}, *turns]
    last = turns[-1] if turns else None
    if isinstance(last, Mapping) and not str(last.get("content") or "").strip():
        raise Unusable(EMPTY)
    parsed = parse_messages(turns)
    if parsed is None:
        raise Unusable("messages without a final assistant turn")
    return parsed


def read_summaries(number: int, row: Row, template: str) -> Record:
    """A pair of summaries of a post, in the layout of openai/summarize_from_feedback.

    `info.post` is the text, `summaries[k].text` the two answers, `choice` the index of the better
    one. Answers lose the space around them: what stands before an answer is the template's.
    """
    info, choice = row.get("info"), row.get("choice")
    found = info if isinstance(info, Mapping) else {}
    if not str(found.get("post") or "").strip():
        raise Unusable("no post", f"row {number}")
    summaries = row.get("summaries")
    texts = [
        str(one.get("text") or "").strip()
        for one in (summaries if isinstance(summaries, list) else [])
        if isinstance(one, Mapping)
    ]
    if len(texts) != 2 or choice not in (0, 1):
        raise Unusable("no choice between two summaries", f"row {number}")
    prompt = template.format(**{name: str(found.get(name) or "").strip() for name in FIELDS})
    return pair(number, prompt, texts[int(choice)], texts[1 - int(choice)])


def check_template(template: str) -> None:
    """Raise unless `template` names the post, and nothing that a row does not have."""
    try:
        named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError:
        named = set()
    require(
        "post" in named and named <= set(FIELDS),
        "dataset.template",
        template,
        "must contain {post}, and may contain {title} and {subreddit}",
    )

"""Pairs of answers to one prompt, one of them preferred, in the schemas they are published in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import product
from string import Formatter
from typing import Final

from tokencredit.data.contents import (
    NO_ANSWER,
    Said,
    decoded,
    is_message,
    listed,
    said,
    talk,
    text_of,
)
from tokencredit.data.files import Row
from tokencredit.data.formats import Format, Found, Holds
from tokencredit.data.records import Message, Record, Unusable
from tokencredit.errors import require

RANKED: Final = ("answers", "responses", "completions")
RANKS: Final = ("ranks", "rank")
SCORES: Final = ("scores", "score")
EMPTY: Final = "empty response"
SAME: Final = "chosen equals rejected"
DIFFERENT: Final = "prompts differ"
TEMPLATE: Final = "### Text to Summarize: {post}\n ### Summary: "
"""The prompt of the summarisation experiments of Chan et al. 2024, as their code writes it."""
FIELDS: Final = ("post", "title", "subreddit")
"""What of a forum post a template may name."""
ASSISTANTS: Final = {"assistant", "gpt", "chatgpt"}


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


class Preference(Format):
    """Pairs from the columns prompt, chosen, rejected: strings, or lists of chat messages.

    Messages of `chosen` and `rejected` may begin with the conversation (then `prompt` is not
    needed) or hold the answer alone. This is the layout of trl-lib/tldr-preference,
    Dahoas/full-hh-rlhf, and of TRL's preference data sets in general. Either may be a list of
    answers: then each chosen one is preferred to each rejected one.
    """

    holds = Holds.pairs
    columns = ("chosen", "rejected")

    def records(self, number: int, row: Row) -> list[Found]:
        """A record of each chosen answer with each rejected one."""
        prompt = said(row.get("prompt"), "prompt")
        chosen, rejected = (answers(row.get(name), name) for name in ("chosen", "rejected"))
        return attempt(number, prompt, product(chosen, rejected))


class Ranked(Format):
    """Every pair of a prompt's answers of which one ranks before the other, the best first.

    `ranks` counts from the best; of `scores` the highest is the best.
    """

    holds = Holds.pairs
    columns = ("prompt", RANKED, (*RANKS, *SCORES))

    def records(self, number: int, row: Row) -> list[Found]:
        """A record of each pair of different rank."""
        prompt = said(row.get("prompt"), "prompt")
        given = answers(listed(_first(row, RANKED)), "answers")
        ranks, scores = (listed(_first(row, names)) for names in (RANKS, SCORES))
        order = _numbers(ranks) if ranks is not None else [-score for score in _numbers(scores)]
        if len(order) != len(given):
            raise Unusable("answers and their ranks differ in number", f"row {number}")
        best_first = sorted(range(len(given)), key=order.__getitem__)
        pairs = [
            (given[better], given[worse])
            for better, worse in product(best_first, best_first)
            if order[better] < order[worse]
        ]
        if not pairs:
            raise Unusable("no answer ranks before another", f"row {number}")
        return attempt(number, prompt, pairs)


class Summaries(Format):
    """Two summaries of a post, in the layout of openai/summarize_from_feedback.

    `info.post` is the text, `summaries[k].text` the two answers, `choice` the index of the better
    one. Answers lose the space around them: what stands before an answer is the template's.
    """

    holds = Holds.pairs
    columns = ("info", "summaries", "choice")

    def records(self, number: int, row: Row) -> list[Found]:
        """The pair, behind the post in `dataset.template`."""
        info, choice = row.get("info"), row.get("choice")
        found = info if isinstance(info, Mapping) else {}
        fields = {name: text_of(found.get(name), name).strip() for name in FIELDS}
        if not fields["post"]:
            raise Unusable("no post", f"row {number}")
        summaries = row.get("summaries")
        texts = [
            text_of(one.get("text"), "a summary").strip()
            for one in (summaries if isinstance(summaries, list) else [])
            if isinstance(one, Mapping)
        ]
        if len(texts) != 2 or choice not in (0, 1):
            raise Unusable("no choice between two summaries", f"row {number}")
        prompt = self.settings.template.format(**fields)
        return [pair(number, prompt, texts[int(choice)], texts[1 - int(choice)])]


def answers(value: object, name: str) -> list[Said]:
    """The answers of a column that may hold one or several.

    Several are a list of strings, of conversations, or of messages that are all the assistant's:
    nobody answers twice in a row. A list of other messages is one conversation.
    """
    value = decoded(value)
    if not isinstance(value, list):
        return [said(value, name)]
    spoken = [is_message(item) for item in value]
    roles = [item.get("role", item.get("from")) for item in value if isinstance(item, Mapping)]
    several = not all(spoken) or (len(value) > 1 and set(roles) <= ASSISTANTS)
    parts = any(isinstance(item, Mapping) and not is_message(item) for item in value)
    if parts or not several:
        return [said(value, name)]
    return [said(item, name) for item in value]


def attempt(number: int, prompt: Said, pairs: Iterable[tuple[Said, Said]]) -> list[Found]:
    """A record of each pair, or why it is of no use."""
    found: list[Found] = []
    for chosen, rejected in pairs:
        try:
            found.append(pair_of(number, prompt, chosen, rejected))
        except Unusable as reason:
            found.append(reason)
    return found


def pair_of(number: int, prompt: Said, chosen: Said, rejected: Said) -> Record:
    """The record of one pair: a conversation if any of the three is one."""
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        if not prompt.strip():
            raise Unusable("no prompt", f"row {number}")
        return pair(number, prompt, chosen, rejected)
    won, lost = (whole(prompt, answer) for answer in (chosen, rejected))
    if won[:-1] != lost[:-1]:
        raise Unusable(DIFFERENT, f"row {number}")
    check_answers(number, won[-1]["content"], lost[-1]["content"])
    return talk(number, won, rejected=lost[-1]["content"])


def whole(prompt: Said, answer: Said) -> tuple[Message, ...]:
    """The conversation that ends with `answer`, which may have its beginning in front of it."""
    turns = ({"role": "assistant", "content": answer},) if isinstance(answer, str) else answer
    if not isinstance(prompt, str):
        turns = turns if turns[: len(prompt)] == prompt else (*prompt, *turns)
    elif len(turns) == 1 and prompt:
        turns = ({"role": "user", "content": prompt}, *turns)
    if turns and not turns[-1]["content"].strip():
        raise Unusable(EMPTY)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Unusable(NO_ANSWER)
    return turns


def _first(row: Row, names: Iterable[str]) -> object:
    """The value of the first of these columns that there is."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _numbers(values: object) -> list[float]:
    listed = values if isinstance(values, list) else [values]
    return [number_of(value, "a rank") for value in listed]


def number_of(value: object, name: str) -> float:
    """A finite number, also one that a table of text spells."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Unusable(f"{name} is not a number", value)
    return number


def margin_of(value: object) -> float | None:
    """By how much one answer should beat the other; None where the row does not say."""
    if value is None or value == "":
        return None
    margin = number_of(value, "margin")
    if margin < 0:
        raise Unusable("margin is negative", value)
    return margin


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

"""The questions that an LLM judge is asked: each pair once in a drawn order, or in both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from tokencredit.canonical import digest
from tokencredit.endpoint.settings import EndpointSettings, without_user
from tokencredit.errors import require
from tokencredit.evaluation.formats import Answers, matched
from tokencredit.evaluation.llm.prompt import JudgeTemplate
from tokencredit.streams import stream_key


@dataclass(slots=True, kw_only=True)
class Asking:
    """How questions are put."""

    endpoint: EndpointSettings
    template: JudgeTemplate
    seed: int = 0
    """Decides each pair's order, with the prompt and the names of the two."""
    both_orders: bool = False
    """Ask twice, each answer first once."""
    parse_retries: int = 1
    """How often a question is put again whose reply could not be read."""
    concurrency: int = 4
    """Questions at one time."""
    again: bool = False
    """Put questions again that were answered before, but refused or unparsable."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.parse_retries >= 0, "--parse-retries", self.parse_retries, "must be >= 0")
        require(self.concurrency >= 1, "--concurrency", self.concurrency, "must be >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request: two answers in one order."""

    key: str
    unlimited: str
    """The key's hash with the length limit left out."""
    item: str
    first: str
    second: str
    text: str


def questions(answers: Answers, asking: Asking) -> list[Question]:
    """Every pair of generators on every prompt that all answered; equal answers are not asked."""
    items, _ = matched(answers)
    found = []
    for item in items:
        for pair in combinations(answers, 2):
            if answers[pair[0]][item].output == answers[pair[1]][item].output:
                continue
            orders = _orders(item, pair, asking)
            found += [_question(item, names, answers, asking) for names in orders]
    return found


def _orders(item: str, names: tuple[str, str], asking: Asking) -> Iterator[tuple[str, str]]:
    ordered = (min(names), max(names))  # whichever file came first
    if stream_key(asking.seed, "judge order", item, *ordered) & 1:
        ordered = ordered[::-1]
    yield ordered
    if asking.both_orders:
        yield ordered[::-1]


def _question(item: str, names: tuple[str, str], answers: Answers, asking: Asking) -> Question:
    first, second = (answers[name][item] for name in names)
    endpoint = asking.endpoint
    text = asking.template.fill(first.prompt, first.output, second.output)
    content = {
        "template": asking.template.text,
        "prompt": first.prompt,
        "answers": [first.output, second.output],  # in the order they are shown
        "base_url": without_user(endpoint.base_url),
        "model": endpoint.model,
        "temperature": endpoint.temperature,
    }
    return Question(
        key=digest(content | {"max_tokens": endpoint.max_tokens}),
        unlimited=digest(content),
        item=item,
        first=names[0],
        second=names[1],
        text=text,
    )

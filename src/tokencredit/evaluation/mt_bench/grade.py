"""An LLM grades single answers: every turn of every conversation, from 1 to 10."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from tokencredit.canonical import digest
from tokencredit.console import say
from tokencredit.endpoint.client import Endpoint
from tokencredit.endpoint.kept import ReplyFile, ask_all
from tokencredit.endpoint.messages import Reply, price
from tokencredit.endpoint.settings import EndpointSettings, without_user
from tokencredit.errors import require
from tokencredit.evaluation.formats import file_name
from tokencredit.evaluation.llm.outcomes import Cost
from tokencredit.evaluation.llm.prompt import answered
from tokencredit.evaluation.mt_bench.files import (
    ANSWERS,
    Conversations,
    Judgement,
    Question,
    judgement_rows,
    on_scale,
)
from tokencredit.evaluation.mt_bench.scores import report
from tokencredit.store.files import write_json, write_rows, write_text
from tokencredit.tracking.progress import Progress

DOUBLE: Final = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
SINGLE: Final = re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*\]")
REPLIES: Final = "replies.jsonl"
HINT: Final = " Right answers stand behind the conversation: hold what the assistant says to them."
WHICH: Final = ("the assistant's reply", "the assistant's last reply, to what came before it,")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """How answers are put to the judge."""

    endpoint: EndpointSettings
    concurrency: int = 4
    """Requests at one time."""

    def __post_init__(self) -> None:
        """Raise `UserError` for a number out of range."""
        require(self.concurrency >= 1, "--concurrency", self.concurrency, "must be >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One answer that is to be graded."""

    question: int
    model: str
    turn: int
    text: str


def grade(
    questions: Sequence[Question],
    conversations: Conversations,
    grading: Grading,
    prices: tuple[float, float] | None,
    out: Path,
    seconds: float,
) -> str:
    """Ask what has not been asked, write judgements and scores to `out`, return what to print.

    Replies are kept by content in replies.jsonl, so nothing is paid twice. `seconds` is the time
    that FastChat's rows have, since the epoch. Raises `UserError` for questions without an answer
    in all of a model's, and where the endpoint cannot be used.
    """
    asked = requests(questions, conversations)
    replies, fresh = _ask(asked, grading, out)
    endpoint = grading.endpoint
    judgements = [
        _judgement(one, reply, endpoint.model)
        for one in asked
        if (reply := replies[_key(one.text, endpoint)]).rejected is None
    ]
    path = out / "model_judgment" / f"{file_name(endpoint.model)}_single.jsonl"
    write_rows(path, judgement_rows(judgements, seconds))
    told, found = report(judgements, questions)
    costs = {
        "all": _cost(replies.values(), prices),
        "now": _cost((replies[key] for key in fresh), prices),
    }
    rejected = len(asked) - len(judgements)
    write_json(
        out / "results.json",
        {
            "schema_version": 1,
            "judge": {
                "base_url": without_user(endpoint.base_url),
                "model": endpoint.model,
                "temperature": endpoint.temperature,
                "max_tokens": endpoint.max_tokens,
            },
            "models": found,
            "cut": sum(reply.cut for reply in replies.values()),
            "rejected": rejected,
            "cost": {name: asdict(cost) for name, cost in costs.items()},
        },
    )
    text = "\n\n".join(
        [
            f"graded by {endpoint.model}",
            told,
            *([f"requests that were not taken: {rejected}"] if rejected else []),
            f"cost: {costs['all'].text()}\nof that now: {costs['now'].text()}",
        ]
    )
    write_text(out / "report.md", text + "\n")
    return "\n\n".join([text, "\n".join(map(str, (out / "report.md", out / "results.json", path)))])


def _judgement(asked: Asked, reply: Reply, judge: str) -> Judgement:
    """What a reply says; a refusal, and one that the length limit has cut, hold no rating."""
    return Judgement(
        question=asked.question,
        model=asked.model,
        judge=judge,
        turn=asked.turn,
        score=None if reply.cut or reply.refused else rating(reply.text),
        asked=asked.text,
        said=reply.text,
    )


def requests(questions: Sequence[Question], conversations: Conversations) -> list[Asked]:
    """Every turn that a model has answered, as it is put; models that left questions out are told.

    Raises `UserError` where a model has answered none of them.
    """
    found = []
    for model, own in conversations.items():
        known = [question for question in questions if question.number in own]
        require(bool(known), ANSWERS, model, "has answered none of the questions of --questions")
        if len(known) < len(questions):
            say(f"{model}: has no answer to {len(questions) - len(known)} questions")
        for question in known:
            said = own[question.number][: len(question.turns)]
            found += [
                Asked(question=question.number, model=model, turn=turn, text=text)
                for turn in range(1, len(said) + 1)
                if (text := request(question, said[:turn]))
            ]
    return found


def request(question: Question, said: Sequence[str]) -> str:
    """What the judge is asked of the last of these answers, the whole conversation before it."""
    place = resources.files("tokencredit.evaluation.llm") / "templates" / "grade.txt"
    turns = len(said)
    spoken = [
        f"--- Person ---\n{asked}\n--- Assistant ---\n{answer}"
        for asked, answer in zip(question.turns, said, strict=False)
    ]
    right = [
        f"--- Right answer to message {number} ---\n{text}"
        for number, text in enumerate(question.reference[:turns], start=1)
    ]
    return Template(place.read_text(encoding="utf-8")).substitute(
        which=WHICH[turns > 1],
        hint=HINT if right else "",
        conversation="\n".join(spoken),
        reference="\n".join([*right, "=== End ===", ""]) if right else "",
    )


def rating(reply: str) -> float | None:
    """The grade in double brackets, else in single ones, behind the reasoning of a model.

    None where there is none, where two differ, and where it is off the scale.
    """
    text = answered(reply)
    for pattern in (DOUBLE, SINGLE):
        said = {float(number) for number in pattern.findall(text)}
        if said:
            return on_scale(said.pop()) if len(said) == 1 else None
    return None


def _ask(asked: Sequence[Asked], grading: Grading, out: Path) -> tuple[dict[str, Reply], set[str]]:
    """The replies by key, and the keys of those that were asked for now."""
    wanted = {_key(one.text, grading.endpoint): one.text for one in asked}
    endpoint = Endpoint(grading.endpoint)
    try:
        with ReplyFile(out / REPLIES) as file:
            fresh = {key for key in wanted if file.get(key) is None}
            say(f"{len(wanted)} answers to grade, {len(wanted) - len(fresh)} of them graded before")
            with Progress(max(len(fresh), 1), 0, "grade") as bar:
                return ask_all(wanted, endpoint, file, grading.concurrency, bar.advance), fresh
    finally:
        endpoint.close()


def _key(text: str, endpoint: EndpointSettings) -> str:
    return digest(
        {
            "text": text,
            "base_url": without_user(endpoint.base_url),
            "model": endpoint.model,
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
        }
    )


def _cost(replies: Iterable[Reply], prices: tuple[float, float] | None) -> Cost:
    """What replies cost; those that were rejected cost nothing."""
    paid = [reply for reply in replies if reply.rejected is None]
    asked = sum(reply.prompt_tokens for reply in paid)
    said = sum(reply.completion_tokens for reply in paid)
    return Cost(len(paid), asked, said, price(asked, said, prices))

"""Asking an LLM which of two answers is better: each pair once in a drawn order, or in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import combinations

from tokencredit.canonical import digest
from tokencredit.errors import UserError, require
from tokencredit.evaluation.answers import Answers, matched
from tokencredit.evaluation.endpoint import Endpoint, Reply
from tokencredit.evaluation.endpoint_settings import EndpointSettings, without_user
from tokencredit.evaluation.prompt import JudgeTemplate, Outcome, parse
from tokencredit.evaluation.verdicts import Verdict, VerdictFile
from tokencredit.streams import stream_key

Tell = Callable[[int], None]
"""Hears how many questions are answered."""


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
        "max_tokens": endpoint.max_tokens,
    }
    return Question(key=digest(content), item=item, first=names[0], second=names[1], text=text)


def ask_all(
    asked: Sequence[Question], asking: Asking, endpoint: Endpoint, file: VerdictFile, tell: Tell
) -> tuple[list[Verdict], list[Verdict]]:
    """The verdict on every question, and those that were asked for now; the others come from
    the file.

    What is answered is on the disk before anything else happens, so a run that is killed or fails
    goes on where it stopped. Raises `UserError` when the endpoint cannot be used.
    """
    open_keys = dict.fromkeys(q.key for q in asked if file.get(q.key, again=asking.again) is None)
    pending = {q.key: q for q in asked if q.key in open_keys}
    done = len({q.key for q in asked}) - len(pending)
    answered: dict[str, Verdict] = {}
    pool = ThreadPoolExecutor(asking.concurrency)
    try:
        futures = [
            pool.submit(_ask, question, asking, endpoint, file) for question in pending.values()
        ]
        for future in as_completed(futures):
            verdict = future.result()
            answered[verdict.key] = verdict
            done += 1
            tell(done)
            _check_rejections(answered, asking)
    finally:
        endpoint.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
    verdicts = [_as_asked(answered.get(q.key) or _known(file, q.key), q) for q in asked]
    return verdicts, list(answered.values())


def _ask(question: Question, asking: Asking, endpoint: Endpoint, file: VerdictFile) -> Verdict:
    """Put one question, again if the reply cannot be read; the verdict is stored."""
    replies: list[Reply] = []
    outcome = Outcome.unparsable
    while len(replies) <= asking.parse_retries and outcome is Outcome.unparsable:
        reply = endpoint.ask(question.text)
        replies.append(reply)
        outcome = _outcome(reply)
    verdict = Verdict(
        key=question.key,
        item=question.item,
        first=question.first,
        second=question.second,
        outcome=outcome,
        reply=replies[-1].text,
        requests=len(replies),
        attempts=sum(reply.attempts for reply in replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        model=replies[-1].model,
    )
    file.add(verdict)
    return verdict


def _outcome(reply: Reply) -> Outcome:
    if reply.rejected is not None:
        return Outcome.rejected
    return Outcome.refusal if reply.refused else parse(reply.text)


def _known(file: VerdictFile, key: str) -> Verdict:
    verdict = file.get(key)
    assert verdict is not None, "every question is known or was asked"
    return verdict


def _as_asked(verdict: Verdict, question: Question) -> Verdict:
    """A verdict on the same texts may have been given under other names."""
    return replace(verdict, item=question.item, first=question.first, second=question.second)


def _check_rejections(answered: Mapping[str, Verdict], asking: Asking) -> None:
    """Raise if the endpoint has taken none of the first requests: then the fault is not theirs."""
    if len(answered) == 3 and all(v.outcome is Outcome.rejected for v in answered.values()):
        said = next(iter(answered.values())).reply
        raise UserError(
            f"--base-url = {without_user(asking.endpoint.base_url)!r}: took none of the first "
            f"three requests ({said}); check --model, --temperature, --max-tokens, and the template"
        )

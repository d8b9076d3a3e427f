"""Asking an LLM which of two answers is better: each pair once in a drawn order, or in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import combinations

from tokencredit.canonical import digest
from tokencredit.errors import UserError, require
from tokencredit.evaluation.answers import Answers, matched
from tokencredit.evaluation.endpoint import Endpoint, OnlyOdd
from tokencredit.evaluation.endpoint_settings import EndpointSettings, without_user
from tokencredit.evaluation.prompt import REMINDER, JudgeTemplate, Outcome, parse
from tokencredit.evaluation.reply import Reply
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


def known(file: VerdictFile, question: Question, asking: Asking) -> Verdict | None:
    """The verdict on a question that need not be asked."""
    return file.get(question.key, question.unlimited, again=asking.again)


def ask_all(
    asked: Sequence[Question], asking: Asking, endpoint: Endpoint, file: VerdictFile, tell: Tell
) -> tuple[list[Verdict], list[Verdict]]:
    """The verdict on every question, and those that were asked for now; the others come from
    the file.

    What is answered is on the disk before anything else happens, so a run that is killed or fails
    goes on where it stopped. Raises `UserError` when the endpoint cannot be used.
    """
    found = {q.key: known(file, q, asking) for q in asked}
    pending = {q.key: q for q in asked if found[q.key] is None}
    done = len(found) - len(pending)
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
            _check_useless(answered, asking)
    finally:
        endpoint.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
    found |= answered
    return [_as_asked(found[q.key], q) for q in asked], list(answered.values())


def _ask(question: Question, asking: Asking, endpoint: Endpoint, file: VerdictFile) -> Verdict:
    """Put one question, again if the reply cannot be read; the verdict is stored.

    Put again, it says so: the same request would have the same reply, paid for twice.
    """
    replies: list[Reply] = []
    outcome, before = Outcome.unparsable, file.spent(question.key)
    while len(replies) <= asking.parse_retries and outcome is Outcome.unparsable:
        number = before + len(replies) + 1
        again = REMINDER.format(number=number) if number > 1 else ""
        reply = _reply(question.text + again, endpoint)
        if reply.rejected is not None and replies:  # what was paid for counts
            break
        replies.append(reply)
        outcome = _outcome(reply)
        if reply.cut:
            break
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
        question=question.unlimited,
        cut=replies[-1].cut,
        odd=sum(reply.odd for reply in replies),
        own_temperature=replies[-1].own_temperature,
    )
    file.add(verdict)
    return verdict


def _reply(text: str, endpoint: Endpoint) -> Reply:
    """The reply to a request; one that only gets what cannot be read is turned down like others."""
    try:
        return endpoint.ask(text)
    except OnlyOdd as error:
        return Reply(str(error), rejected=200, attempts=error.attempts, odd=error.odd)


def _outcome(reply: Reply) -> Outcome:
    if reply.rejected is not None:
        return Outcome.rejected
    if reply.cut:
        return Outcome.unparsable
    return Outcome.refusal if reply.refused else parse(reply.text)


def _as_asked(verdict: Verdict | None, question: Question) -> Verdict:
    """A verdict on the same texts may have been given under other names."""
    assert verdict is not None, "every question is known or was asked"
    return replace(verdict, item=question.item, first=question.first, second=question.second)


def _check_useless(answered: Mapping[str, Verdict], asking: Asking) -> None:
    """Raise if none of the first requests was taken, or all replies were cut: so will others be."""
    if len(answered) != 3:
        return
    where = f"--base-url = {without_user(asking.endpoint.base_url)!r}: "
    if all(v.outcome is Outcome.rejected for v in answered.values()):
        said = next(iter(answered.values())).reply.removeprefix(where)
        raise UserError(
            f"{where}took none of the first three requests ({said}); check --base-url, --model, "
            "--temperature, --max-tokens, and the template"
        )
    if all(v.cut for v in answered.values()):
        raise UserError(f"{where}none of the first three replies ended; {too_short(asking)}")


def too_short(asking: Asking) -> str:
    """What helps where replies were cut."""
    limit = asking.endpoint.max_tokens
    return (
        f"--max-tokens = {limit} cut them before their verdict, and reasoning counts, too: give "
        f"--ask-again --max-tokens {8 * limit}, and only questions without a verdict are asked"
    )

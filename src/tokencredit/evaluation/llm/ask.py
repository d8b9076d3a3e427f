"""Asking an LLM which of two answers is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tokencredit.endpoint.client import Endpoint
from tokencredit.endpoint.messages import Reply
from tokencredit.endpoint.settings import without_user
from tokencredit.errors import UserError
from tokencredit.evaluation.llm.prompt import REMINDER, Outcome, parse
from tokencredit.evaluation.llm.questions import Asking, Question
from tokencredit.evaluation.llm.verdicts import Verdict, VerdictFile


def known(file: VerdictFile, question: Question, asking: Asking) -> Verdict | None:
    """The verdict on a question that need not be asked."""
    return file.get(question.key, question.unlimited, again=asking.again)


def ask_all(
    asked: Sequence[Question],
    asking: Asking,
    endpoint: Endpoint,
    file: VerdictFile,
    on_progress: Callable[[int], None],
) -> tuple[list[Verdict], list[Verdict]]:
    """The verdict on every question, and those that were asked for now; the others come from
    the file. `on_progress` hears how many questions are answered.

    What is answered is on the disk before anything else happens, so a run that is killed or fails
    goes on where it stopped. Raises `UserError` when the endpoint cannot be used.
    """
    found = {q.key: known(file, q, asking) for q in asked}
    pending = {q.key: q for q in asked if found[q.key] is None}
    known_before = len(found) - len(pending)
    answered: dict[str, Verdict] = {}

    def ask(question: Question) -> Verdict:
        return _ask(question, asking, endpoint, file)

    def take(question: Question, verdict: Verdict) -> None:
        answered[question.key] = verdict
        on_progress(known_before + len(answered))
        _check_useless(answered, asking)

    endpoint.in_threads(ask, pending.values(), asking.concurrency, take)
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
        reply = endpoint.reply(question.text + again)
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

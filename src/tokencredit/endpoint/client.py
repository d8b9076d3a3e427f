"""One OpenAI-compatible endpoint: asks, waits, tries again, and keeps its key to itself.

The key comes from an environment variable and goes into the request's header, nowhere else:
whatever text leaves this room had the key cut out, and what else of the address is secret.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tokencredit.endpoint.messages import Form, OddAnswer, Reply, read_completion, said_by
from tokencredit.endpoint.settings import EndpointSettings, Pace, retry_after, without_user
from tokencredit.errors import UserError, require
from tokencredit.redaction import secrets_of, secrets_of_url

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

ITEM_FAULTS: Final = (400, 413, 422)
"""Status codes that speak of one request; others that are not retried speak of all."""
AGAIN: Final = (408, 409, 425, 429)
LONGEST_PAUSE: Final = 60.0
LONGEST_RETRY_AFTER: Final = 600.0
ODD: Final = 3
"""Answers to one question that are no chat completion; then others are asked."""
LONGEST_PROBLEM: Final = 300
"""Characters of what an endpoint says of an error."""


class EndpointFailed(UserError):
    """The endpoint cannot be used, now or at all; what was answered before is kept."""


class OnlyOdd(EndpointFailed):
    """To one question came nothing but what is no chat completion."""

    def __init__(self, message: str, attempts: int, odd: int) -> None:
        """`attempts` were made, `odd` of them answered so."""
        EndpointFailed.__init__(self, message)
        self.attempts, self.odd = attempts, odd


@dataclass(slots=True)
class _Course:
    """How far the asking of one question is."""

    form: Form
    attempts: int = 0
    failed: int = 0
    odd: int = 0
    """Failed attempts, of these, that were answered with what is no chat completion."""
    problem: str = ""


class Endpoint:
    """A chat-completions endpoint; safe to use from several threads."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Nothing is sent yet."""
        self.settings = settings
        self.pace = Pace(settings.per_minute)
        self.stopped = threading.Event()
        """Set to make waiting threads give up."""
        self._key = os.environ.get(settings.key_variable, "").strip()
        require(
            self._key.isascii() and self._key.isprintable(),
            settings.named("key_variable"),
            settings.key_variable,
            "this variable holds characters that no header of a request can; set it again",
        )
        self._secrets = secrets_of([self._key, *secrets_of_url(settings.base_url)])
        self._form = Form()
        self._client: OpenAI | None = None
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    def ask(self, text: str) -> Reply:
        """The reply to one message.

        Raises `OnlyOdd` where this question gets nothing that can be read, and `EndpointFailed`
        where asking anything else would be as useless.
        """
        course = _Course(self._form)
        while course.failed <= self.settings.retries and course.odd < ODD:
            self.pace.wait(self.stopped)
            if self.stopped.is_set():
                break
            course.attempts += 1
            reply = self._attempt(text, course)
            if reply is not None:
                return replace(reply, attempts=course.attempts, odd=course.odd)
        if course.odd and course.odd in (course.failed, ODD):
            raise OnlyOdd(f"{self._where()}: {course.problem}", course.attempts, course.odd)
        raise EndpointFailed(
            f"{self._where()}: no answer after {course.attempts} attempts "
            f"({course.problem or 'stopped'}); check that it runs, then give the same command "
            "again: nothing is asked twice"
        )

    def reply(self, text: str) -> Reply:
        """As `ask`; a message that only gets what cannot be read is rejected, as others are."""
        try:
            return self.ask(text)
        except OnlyOdd as error:
            return Reply(str(error), rejected=200, attempts=error.attempts, odd=error.odd)

    def in_threads(
        self,
        ask: Callable[[Asked], Answer],
        asked: Iterable[Asked],
        concurrency: int,
        on_answer: Callable[[Asked, Answer], None],
    ) -> None:
        """Call `ask`, which uses this endpoint, with each of `asked`, so many at a time; what it
        returns is handed to `on_answer` as it comes, in the calling thread.

        Where either raises, the error is raised here: what waits is given up, and this endpoint
        cannot be used again.
        """
        pool = ThreadPoolExecutor(concurrency)
        try:
            futures = {pool.submit(ask, each): each for each in asked}
            for future in as_completed(futures):
                on_answer(futures[future], future.result())
        except BaseException:
            self.stopped.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _attempt(self, text: str, course: _Course) -> Reply | None:
        """The reply to one request; None after a failure that may pass, and the pause after it."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        pause = None
        try:
            reply = self._read(self._send(text, course.form))
            self._form = course.form
            return replace(reply, own_temperature=not course.form.temperature)
        except APIStatusError as error:
            changed = course.form.changed(error.status_code, error.body)
            if changed is not None:  # sent at once, and no failure: the endpoint has said how
                course.form = changed
                return None
            course.problem = self._status(error)
            if error.status_code in ITEM_FAULTS:
                return Reply(course.problem, rejected=error.status_code)
            pause = retry_after(error.response.headers)
        except APIConnectionError as error:
            cause = error.__cause__ or error
            course.problem = self.redact(f"{error.message} {type(cause).__name__}: {cause}")
        except (OpenAIError, ValueError, RecursionError) as error:
            course.odd, course.problem = course.odd + 1, self._odd(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may quote the address
            said = self.redact(f"{type(error).__name__}: {error}")
            raise EndpointFailed(f"{self._where()}: {said}") from None
        course.failed += 1
        self._rest(course.failed, pause)
        return None

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def redact(self, text: str) -> str:
        """`text` without the key, or any part of the address that is secret, however spelled."""
        return self._secrets.redact(text)

    def _send(self, text: str, form: Form) -> Any:
        settings = self.settings
        return self._open().chat.completions.create(
            model=settings.model,
            messages=[{"role": "user", "content": text}],
            **form.parameters(settings.temperature, settings.max_tokens),
        )

    def _open(self) -> OpenAI:
        if self._client is None:
            from openai import OpenAI

            self._client = OpenAI(
                base_url=self.settings.base_url,
                api_key=self._key or "none",
                timeout=self.settings.timeout,
                max_retries=0,  # retries are counted, paced, and explained here
            )
        return self._client

    def _read(self, answer: Any) -> Reply:
        reply = read_completion(answer)
        return replace(reply, text=self.redact(reply.text), model=self.redact(reply.model))

    def _odd(self, error: Exception) -> str:
        """What is said of an answer that could not be read."""
        said = self.redact(str(error))[:LONGEST_PROBLEM]
        what = said if isinstance(error, OddAnswer) else f"{type(error).__name__}: {said}"
        return (
            f"answers with something else than a chat completion ({' '.join(what.split())}); the "
            "address usually ends with /v1. What was answered before is kept"
        )

    def _status(self, error: APIStatusError) -> str:
        """What an error says; raises `EndpointFailed` where it would be said of all requests."""
        status = error.status_code
        said = self.redact(said_by(error.body) or error.message)[:LONGEST_PROBLEM]
        if status in ITEM_FAULTS:
            return said
        problem = f"status {status}: {said}"
        if status not in AGAIN and status < 500:
            raise EndpointFailed(self._refusal(status, problem)) from None
        return problem

    def _rest(self, failed: int, retry_after: float | None) -> None:
        """Wait before the next attempt: as long as was asked for, else longer every time."""
        if failed > self.settings.retries:
            return
        if retry_after is not None:
            self.pace.pause(min(retry_after, LONGEST_RETRY_AFTER))
            return
        longest = min(self.settings.first_pause * 2 ** (failed - 1), LONGEST_PAUSE)
        self.stopped.wait(longest * self._jitter.uniform(0.5, 1))

    def _where(self) -> str:
        return f"{self.settings.named('base_url')} = {without_user(self.settings.base_url)!r}"

    def _refusal(self, status: int, problem: str) -> str:
        variable, named = self.settings.key_variable, self.settings.named
        held = "is set" if self._key else "is not set"
        remedy = {
            401: f"the key was not accepted; put it into ${variable}, which {held}",
            403: f"the key in ${variable}, which {held}, may not use this model",
            404: f"check {named('base_url')} and {named('model')} = {self.settings.model!r}",
        }.get(status, "the endpoint does not take such requests")
        return f"{self._where()}: {problem}; {remedy}. What was answered before is kept"

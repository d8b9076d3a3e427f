"""One OpenAI-compatible endpoint: asks, waits, tries again, and keeps its key to itself.

The key comes from an environment variable and goes into the request's header, nowhere else:
whatever text leaves this room had the key cut out.
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokencredit.errors import UserError
from tokencredit.evaluation.endpoint_settings import EndpointSettings, without_user
from tokencredit.evaluation.pace import Pace, retry_after

if TYPE_CHECKING:
    from openai import OpenAI

HIDDEN: Final = "<key>"
ITEM_FAULTS: Final = (400, 413, 422)
"""Status codes that speak of one request; others that are not retried speak of all."""
AGAIN: Final = (408, 409, 425, 429)
LONGEST_PAUSE: Final = 60.0
LONGEST_RETRY_AFTER: Final = 600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, or the status with which this one request was turned down."""

    text: str
    refused: bool = False
    """The endpoint marked it as a refusal, or its content filter ended it."""
    rejected: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    model: str = ""
    """The model as the endpoint names it."""


class EndpointFailed(UserError):
    """The endpoint cannot be used, now or at all; what was answered before is kept."""


class Endpoint:
    """A chat-completions endpoint; safe to use from several threads."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Nothing is sent yet."""
        self.settings = settings
        self.pace = Pace(settings.per_minute)
        self.stopped = threading.Event()
        """Set to make waiting threads give up."""
        self._key = os.environ.get(settings.key_variable, "").strip()
        self._client: OpenAI | None = None
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    def ask(self, text: str) -> Reply:
        """The reply to one message.

        Raises `EndpointFailed` where asking anything else would be as useless.
        """
        from openai import APIConnectionError, APIStatusError, OpenAIError

        attempt, problem = 0, ""
        while attempt <= self.settings.retries and not self.stopped.is_set():
            self.pace.wait(self.stopped)
            if self.stopped.is_set():
                break
            attempt += 1
            try:
                return self._reply(self._send(text), attempt)
            except APIStatusError as error:
                status = error.status_code
                if status in ITEM_FAULTS:
                    return Reply(self.redact(_said(error)), rejected=status, attempts=attempt)
                problem = f"status {status}: {self.redact(_said(error))}"
                if status not in AGAIN and status < 500:
                    raise EndpointFailed(self._refusal(status, problem)) from None
                self._rest(attempt, retry_after(error.response.headers))
            except APIConnectionError as error:
                cause = error.__cause__ or error
                problem = self.redact(f"{error.message} {type(cause).__name__}: {cause}")
                self._rest(attempt, None)
            except (OpenAIError, ValueError, RecursionError) as error:  # a body that is no JSON
                raise EndpointFailed(f"{self._where()}: {self.redact(str(error))}") from None
        raise EndpointFailed(
            f"{self._where()}: no answer after {attempt} attempts ({problem or 'stopped'}); check "
            "that it runs, then give the same command again: nothing is asked twice"
        )

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def redact(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self._key, HIDDEN) if self._key else text

    def _send(self, text: str) -> Any:
        settings = self.settings
        return self._open().chat.completions.create(
            model=settings.model,
            messages=[{"role": "user", "content": text}],
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
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

    def _reply(self, answer: Any, attempts: int) -> Reply:
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list):
            raise self._no_completion("no list of choices")
        message = getattr(choices[0], "message", None) if choices else None
        usage = getattr(answer, "usage", None)
        refusal, content = getattr(message, "refusal", None), getattr(message, "content", None)
        if choices and not hasattr(message, "content"):
            raise self._no_completion("a choice without a message")
        if not isinstance(refusal or content or "", str):
            raise self._no_completion(f"a message that is a {type(refusal or content).__name__}")
        return Reply(
            self.redact(refusal or content or ""),
            refused=bool(refusal)
            or bool(choices and getattr(choices[0], "finish_reason", None) == "content_filter"),
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            attempts=attempts,
            model=self.redact(str(getattr(answer, "model", "") or "")),
        )

    def _no_completion(self, what: str) -> EndpointFailed:
        return EndpointFailed(
            f"{self._where()}: answers with something else than a chat completion ({what}); the "
            "address usually ends with /v1. What was answered before is kept"
        )

    def _rest(self, attempt: int, retry_after: float | None) -> None:
        """Wait before the next attempt: as long as was asked for, else longer every time."""
        if attempt > self.settings.retries:
            return
        if retry_after is not None:
            self.pace.pause(min(retry_after, LONGEST_RETRY_AFTER))
            return
        longest = min(self.settings.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
        self.stopped.wait(longest * self._jitter.uniform(0.5, 1))

    def _where(self) -> str:
        return f"--base-url = {without_user(self.settings.base_url)!r}"

    def _refusal(self, status: int, problem: str) -> str:
        variable = self.settings.key_variable
        held = "is set" if self._key else "is not set"
        remedy = {
            401: f"the key was not accepted; put it into ${variable}, which {held}",
            403: f"the key in ${variable}, which {held}, may not use this model",
            404: f"check --base-url and --model = {self.settings.model!r}",
        }.get(status, "the endpoint does not take such requests")
        return f"{self._where()}: {problem}; {remedy}. What was answered before is kept"


def _count(usage: Any, name: str) -> int:
    """Tokens as the endpoint counts them; 0 where it does not say a number."""
    value = getattr(usage, name, None)
    return int(value) if isinstance(value, int | float) and 0 <= value < math.inf else 0


def _said(error: Any) -> str:
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, Mapping) else inner
    return " ".join(str(body or error.message).split())[:300]

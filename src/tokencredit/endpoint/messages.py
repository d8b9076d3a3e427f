"""What is sent to an endpoint and what comes back, whoever has written the server.

Endpoints take one of two length limits, and not all a temperature. One that refuses a parameter
says so before it answers; the request is sent again in the form that it takes, and later ones are
in that form from the start.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

STATUSES: Final = (400, 422)
UNSUPPORTED: Final = re.compile(
    r"unsupported|(?:not|n't|cannot) (?:be )?(?:\w+ )?(?:support|permit|allow|accept)|deprecated"
    r"|unrecogni[sz]ed|unknown|unexpected|extra (?:inputs|fields)|only the default|no longer"
    r"|strictly positive|use .{0,3}max_completion_tokens|invalid (?:parameter|argument|field)",
    re.IGNORECASE,
)
"""What is said of a parameter that is not taken; a value that is too large is another matter."""
CUT: Final = frozenset({"length", "max_tokens", "max_output_tokens"})
"""Finish reasons of replies that the length limit has ended, in lower case."""
FILTERED: Final = "content_filter"


@dataclass(frozen=True, slots=True)
class Form:
    """The parameters of a request beside model and messages."""

    limit: str = "max_tokens"
    """Name of the length limit; newer models take `max_completion_tokens` alone."""
    temperature: bool = True
    """Whether a temperature is sent."""

    def parameters(self, temperature: float, max_tokens: int) -> dict[str, Any]:
        """By name."""
        own = {"temperature": temperature} if self.temperature else {}
        return {self.limit: max_tokens, **own}

    def changed(self, status: int, body: Any) -> Form | None:
        """The form to try after an error; None where it is not about a parameter of this form."""
        if status not in STATUSES:
            return None
        text = json.dumps(body, default=str, ensure_ascii=False)
        if not UNSUPPORTED.search(text):
            return None
        named = _parameter(body) or text
        if self.limit == "max_tokens" and "max_tokens" in named:
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in named:
            return replace(self, temperature=False)
        return None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, or the status with which this one request was turned down."""

    text: str
    """The content alone: what a server returns as reasoning beside it is not read."""
    refused: bool = False
    """The endpoint marked it as a refusal, or its content filter ended it."""
    cut: bool = False
    """The length limit ended it, so that whatever it says is not its last word."""
    rejected: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    odd: int = 0
    """Attempts, of these, that were answered with something that is no chat completion."""
    model: str = ""
    """The model as the endpoint names it."""
    own_temperature: bool = False
    """The endpoint takes no temperature, so none was sent."""


def price(asked: int, said: int, prices: tuple[float, float] | None) -> float | None:
    """What tokens of requests and of replies cost, in the currency of the prices, which are for a
    million of each; None where they are not known."""
    return None if prices is None else (asked * prices[0] + said * prices[1]) / 1e6


class OddAnswer(ValueError):
    """An answer that is no chat completion."""


def read_completion(answer: Any) -> Reply:
    """The first choice of a completion, as the `openai` package has parsed it.

    Content that is missing is an empty reply. Raises `OddAnswer` where there is no choice, and
    where its content is neither text nor a list of parts.
    """
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        said = said_by(getattr(answer, "error", None))
        raise OddAnswer(f"no list of choices{': ' if said else ''}{said}")
    message: Any = getattr(choices[0], "message", None)
    if not hasattr(message, "content"):
        raise OddAnswer("a choice without a message")
    refusal, reason = getattr(message, "refusal", None), getattr(choices[0], "finish_reason", None)
    text, usage = _text(refusal or message.content), getattr(answer, "usage", None)
    return Reply(
        text,
        refused=bool(refusal) or reason == FILTERED,
        cut=str(reason).lower() in CUT,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        model=str(getattr(answer, "model", "") or ""),
    )


def _text(content: Any) -> str:
    """Text, or the text parts of a list; other parts, reasoning among them, are left out."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise OddAnswer(f"a message that is a {type(content).__name__}")
    found = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and part.get("type") != "text":
            continue
        if not isinstance(text, str):
            raise OddAnswer("a message whose parts are no text")
        found.append(text)
    return "".join(found)


def said_by(body: Any) -> str:
    """What the body of an error says, in one line; empty without one."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, Mapping) else inner
    return " ".join(str(body or "").split())


def _count(usage: Any, name: str) -> int:
    """Tokens as the endpoint counts them; 0 where it does not say a number."""
    value = getattr(usage, name, None)
    return int(value) if isinstance(value, int | float) and 0 <= value < math.inf else 0


def _parameter(body: Any) -> str:
    """The parameter that an error names in a field of its own; empty without one."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    return str(inner.get("param") or "") if isinstance(inner, Mapping) else ""

"""Where an endpoint is, how it is asked, and when; nothing in here is secret."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from tokencredit.errors import require


@dataclass(slots=True, kw_only=True)
class EndpointSettings:
    """Where the endpoint is, and how it is asked; raises `UserError` for a value out of range."""

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; an endpoint without keys needs none."""
    temperature: float = 0.0
    max_tokens: int = 200
    timeout: float = 60.0
    """Seconds for one request."""
    retries: int = 6
    """Further attempts after a failure that may pass: 408, 409, 425, 429, 5xx, no connection."""
    first_pause: float = 1.0
    """Seconds before the second attempt; doubled each time, then multiplied by 0.5 to 1."""
    per_minute: float | None = None
    """Most requests begun a minute; None: as many as `concurrency` allows."""
    section: str = ""
    """Where a configuration holds these; empty where they are options of a command."""

    def named(self, name: str) -> str:
        """How whoever set it knows the field `name`: an option, or a key of the configuration."""
        shown = "requests_per_minute" if name == "per_minute" else name
        return f"{self.section}.{shown}" if self.section else f"--{shown.replace('_', '-')}"

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range."""
        parts = urlsplit(self.base_url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname),
            self.named("base_url"),
            without_user(self.base_url),
            "must be http://… or https://…, up to and including /v1",
        )
        require(bool(self.model), self.named("model"), self.model, "name the model")
        require(
            0 <= self.temperature <= 2,
            self.named("temperature"),
            self.temperature,
            "must be 0 to 2",
        )
        require(self.max_tokens >= 1, self.named("max_tokens"), self.max_tokens, "must be >= 1")
        require(self.timeout > 0, self.named("timeout"), self.timeout, "must be > 0 seconds")
        require(self.retries >= 0, self.named("retries"), self.retries, "must be >= 0")
        require(
            self.per_minute is None or self.per_minute > 0,
            self.named("per_minute"),
            self.per_minute,
            "must be > 0",
        )


def without_user(url: str) -> str:
    """The URL without user name, password, and query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


@dataclass(slots=True)
class Pace:
    """Lets requests begin at most so often, and all wait when the endpoint says so."""

    per_minute: float | None
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, stopped: threading.Event) -> None:
        """Return when the next request may begin, or when all is to stop."""
        with self._lock:
            begin = max(self._next, time.monotonic())
            self._next = begin + (60 / self.per_minute if self.per_minute else 0.0)
        stopped.wait(max(0.0, begin - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """No request begins for that long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait: a number, or the time until a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

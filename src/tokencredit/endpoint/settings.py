"""Where a judge is, and how it is asked; nothing in here is secret."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from tokencredit.errors import require


@dataclass(slots=True, kw_only=True)
class EndpointSettings:
    """Where the judge is, and how it is asked."""

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

    def __post_init__(self) -> None:
        """Check the ranges."""
        parts = urlsplit(self.base_url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname),
            "--base-url",
            without_user(self.base_url),
            "must be http://… or https://…, up to and including /v1",
        )
        require(bool(self.model), "--model", self.model, "name the model that judges")
        require(0 <= self.temperature <= 2, "--temperature", self.temperature, "must be 0 to 2")
        require(self.max_tokens >= 1, "--max-tokens", self.max_tokens, "must be >= 1")
        require(self.timeout > 0, "--timeout", self.timeout, "must be > 0 seconds")
        require(self.retries >= 0, "--retries", self.retries, "must be >= 0")
        require(
            self.per_minute is None or self.per_minute > 0,
            "--requests-per-minute",
            self.per_minute,
            "must be > 0",
        )


def without_user(url: str) -> str:
    """The URL without user name, password, and query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))

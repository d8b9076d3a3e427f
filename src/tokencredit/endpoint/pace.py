"""When the next request may begin."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


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

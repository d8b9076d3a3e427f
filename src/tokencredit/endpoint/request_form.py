"""Which parameters a request has: endpoints take one of two length limits, not all a temperature.

An endpoint that refuses a parameter says so before it answers; the request is sent again in the
form that it takes, and later ones are in that form from the start.
"""

from __future__ import annotations

import json
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


def _parameter(body: Any) -> str:
    """The parameter that an error names in a field of its own; empty without one."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    return str(inner.get("param") or "") if isinstance(inner, Mapping) else ""

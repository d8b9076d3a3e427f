"""Lines for the person who waits. Everything goes to standard error; results go to files."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """Print one line, at once."""
    print(message, file=sys.stderr, flush=True)

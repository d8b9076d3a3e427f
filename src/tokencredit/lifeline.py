"""What a child process owes its parent: to end with it, and to tell it of mistakes.

Imports nothing heavy, so that a child that is only starting has done its duty already.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
LIFELINE = "TOKENCREDIT_LIFELINE"
MISTAKE = "TOKENCREDIT_MISTAKE"
END = "\0"
"""Closes a mistake; several processes may tell theirs, and the first is said."""


def die_with_parent() -> None:
    """End this process when its parent ends, however that happened.

    Linux sends a signal; elsewhere (and for a parent that is gone already) the end of a pipe that
    the parent holds open tells.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptor = os.environ.get(LIFELINE)
    if descriptor is not None:
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)


def tell_parent(mistake: str) -> None:
    """Hand a user's mistake to the process that started this one, which says it once."""
    with os.fdopen(int(os.environ[MISTAKE]), "w", encoding="utf-8") as file:
        file.write(mistake + END)

"""Python imports this when it starts: at its end every process notes which package it used."""

from __future__ import annotations

import atexit
import os
import sys


def note() -> None:
    """Append the command and where its `tokencredit` lies, in one piece."""
    module = sys.modules.get("tokencredit")
    if module is None:
        return
    line = f"{' '.join(sys.orig_argv[1:4])}\t{module.__file__}\n".encode()
    place = os.open(os.environ["SAME_NUMBERS_WITNESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(place, line)
    os.close(place)


if "SAME_NUMBERS_WITNESS" in os.environ:
    atexit.register(note)

"""What a child process owes its parent: to end with it, and to tell it of mistakes.

Imports nothing heavy, so that a child that is only starting has done its duty already.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

PR_SET_PDEATHSIG = 1
LIFELINE = "TOKENCREDIT_LIFELINE"
MISTAKE = "TOKENCREDIT_MISTAKE"
LONGEST: Final = 2000
"""Characters of a mistake that are told."""
ATOMIC: Final = 4096
"""Bytes that reach a pipe in one piece, so that several processes may tell at once (Linux)."""
GRACE: Final = 10.0
"""Seconds that a process has to leave the user's code by itself when its time is over."""


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
    _tell("mistake", mistake)


def tell_failed(error: str) -> None:
    """Say which error ends this process; it prints it itself, maybe on another machine."""
    _tell("failed", error)


def enter(what: str, seconds: float | None) -> None:
    """Note that code of the user's is called, which may end this process or never return."""
    _tell("enter", what, seconds)


def leave() -> None:
    """Note that it has returned."""
    _tell("leave", "")


def tell_asked(by: str) -> None:
    """Say that a signal has asked this process to stop, so that all others are asked too."""
    _tell("asked", by)


def tell_saving(*, now: bool) -> None:
    """Say whether this process looks for a request to stop from now on, and saves before it ends;
    of one that does not, nothing is lost that a save could keep."""
    _tell("saving" if now else "loose", "")


def tell_stopped(what: str) -> None:
    """Say what was saved before this process ended on request."""
    _tell("stopped", what)


def _tell(kind: str, text: str, seconds: float | None = None) -> None:
    descriptor = os.environ.get(MISTAKE)
    if descriptor is None:
        return
    length, process = LONGEST, os.getpid()
    while True:
        said = text if len(text) <= length else f"{text[:length]}…"
        entry = json.dumps([kind, process, said, seconds], ensure_ascii=False)
        line = entry.encode("utf-8", "backslashreplace") + b"\n"
        if len(line) <= ATOMIC:
            break
        length //= 2
    os.write(int(descriptor), line)


@dataclass(slots=True)
class Heard:
    """What the children have told through the pipe `descriptor`, from which reading never waits.

    Their own children may hold its other end open for as long as they like.
    """

    descriptor: int | None
    """None: nobody tells anything through a pipe."""
    mistake: str = ""
    """The first that was told."""
    inside: dict[int, tuple[str, float | None, float]] = field(default_factory=dict)
    """By process: the user's code it is in, its time in seconds, and when it entered."""
    asked: str = ""
    """The signal that has asked one of them to stop."""
    saving: set[int] = field(default_factory=set)
    """Processes that save when they are asked to stop."""
    stopped: str = ""
    """What was saved before they ended on request."""
    failed: dict[int, str] = field(default_factory=dict)
    """By process: the error that ended it, the first that was told first."""
    rest: bytes = b""

    def __post_init__(self) -> None:
        """Let reads return at once."""
        if self.descriptor is not None:
            os.set_blocking(self.descriptor, False)

    def listen(self) -> None:
        """Take in what was told until now."""
        for entry in self.entries():
            self.take(*entry)

    def entries(self) -> Iterator[tuple[str, int, str, float | None]]:
        """What was told until now: its kind, the process, a text, and maybe seconds."""
        while self.descriptor is not None:
            try:
                piece = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return
            if not piece:
                return
            *lines, self.rest = (self.rest + piece).split(b"\n")
            yield from map(json.loads, lines)

    def take(self, kind: str, process: int, text: str, seconds: float | None) -> None:
        """Take in one thing that a process has told."""
        if kind == "mistake":
            self.mistake = self.mistake or text
        elif kind == "asked":
            self.asked = self.asked or text
        elif kind == "stopped":
            self.stopped = self.stopped or text
        elif kind == "failed":
            self.failed.setdefault(process, text)
        elif kind == "saving":
            self.saving.add(process)
        elif kind == "loose":
            self.saving.discard(process)
        elif kind == "enter":
            self.inside[process] = (text, seconds, time.monotonic())
        else:
            self.inside.pop(process, None)

    def overdue(self) -> bool:
        """Whether a process is in the user's code long after its time; that is a mistake then."""
        now = time.monotonic()
        for what, seconds, began in self.inside.values():
            if seconds is not None and now > began + seconds + GRACE:
                self.mistake = self.mistake or (
                    f"{what}: has not returned after {seconds:g} s, and could not be interrupted; "
                    "set run.function_seconds to more, or look for what it waits for"
                )
                return True
        return False

    def ended(self, process: int, code: int) -> None:
        """Note the end of a process: inside the user's code it is that code's mistake."""
        if process in self.inside and code not in {-signal.SIGINT, -signal.SIGTERM}:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self.mistake = self.mistake or (
                f"{self.inside[process][0]}: the process ended {how} while this ran; let it return "
                "its numbers, or raise an error that says what is wrong"
            )

"""Requests to stop: a signal asks for it, and whoever can save does so first.

A handler of signals only notes that it was called. The note is the handler itself, which `request`
finds where the signal API keeps it, so nothing else has to be handed down.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from tokencredit.machine.child import tell_saving

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, what ends a job, and what SLURM can send some time before."""
STOPPED: Final = 75
"""Exit code of what was stopped on request and goes on with the same command (EX_TEMPFAIL)."""
INTERRUPTED: Final = 130
"""Exit code after a second Ctrl-C, with which nothing is saved (128 + SIGINT)."""


class Stopped(BaseException):
    """Ends what was asked to stop; no `Exception`, since nothing has failed and no cell follows."""


class Request:
    """What a process has been asked; as a handler of signals it takes that down."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        """Nothing yet. `tell` is called once, with the name of the signal."""
        self.process, self.tell = os.getpid(), tell
        self.by = ""
        """The signal that asked first, by name."""
        self.interrupts = 0
        """How often it was Ctrl-C."""
        self.flag: Path | None = None
        """A file that asks the same of other processes while it is there."""

    @property
    def asked(self) -> bool:
        """Whether it is time to save and end."""
        return bool(self.by) or (self.flag is not None and self.flag.exists())

    @property
    def insisted(self) -> bool:
        """Whether it is to end without that."""
        return self.interrupts > 1

    def ask(self, by: str) -> None:
        """Take down that a signal has asked, and let others know."""
        if self.by:
            return
        self.by = by
        if self.tell is not None:
            self.tell(by)
        if self.flag is not None:
            with suppress(OSError):
                self.flag.touch()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python when a signal has come. Raises KeyboardInterrupt at a second Ctrl-C."""
        if os.getpid() != self.process:  # a copy that os.fork has made ends as others do
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self.insisted:
            signal.default_int_handler(number, frame)
        self.ask(signal.Signals(number).name)


def request() -> Request:
    """What was asked of this process; nothing outside of `listening`."""
    handler = signal.getsignal(signal.SIGUSR1)
    return handler if isinstance(handler, Request) else Request()


def listen(tell: Callable[[str], None] | None = None) -> Callable[[], None]:
    """From now on `SIGNALS` only ask, unless the process ignores them; what undoes that."""
    asked = Request(tell)
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    changed = [(number, handler) for number, handler in before if handler is not signal.SIG_IGN]
    for number, _ in changed:
        signal.signal(number, asked)

    def undo() -> None:
        for number, handler in changed:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    return undo


@contextmanager
def listening() -> Iterator[Request]:
    """Within, `SIGNALS` only ask; a second Ctrl-C interrupts.

    Within another one, and in a thread, to which no signal comes, it is that which listens.
    """
    there = isinstance(signal.getsignal(signal.SIGUSR1), Request)
    if there or threading.current_thread() is not threading.main_thread():
        yield request()
        return
    undo = listen()
    try:
        yield request()
    finally:
        undo()


@contextmanager
def saving() -> Iterator[Request]:
    """Within, this process looks for a request to stop, and saves before it raises `Stopped`; the
    parent waits for that."""
    tell_saving(now=True)
    yield request()
    tell_saving(now=False)


@contextmanager
def holding() -> Iterator[None]:
    """Within, `SIGNALS` wait: a process that is started here finds them when it calls `release`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release() -> None:
    """Let come what has waited since this process was started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def ignore() -> None:
    """Be deaf to `SIGNALS`: this process is as good as over, and its exit code is to be its own."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

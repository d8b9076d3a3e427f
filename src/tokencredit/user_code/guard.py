"""Calls of a user's own code: whatever it does, the run goes on or ends in one clear line."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import torch

from tokencredit.errors import UserError
from tokencredit.machine import child
from tokencredit.machine.faults import LONGEST, raised, shortened, users_place
from tokencredit.machine.stopping import Request

SECONDS: Final = 600.0
"""How long one call may take where no configuration says otherwise."""
AGAIN: Final = 1.0
"""Seconds after which code is told again that its time is over, if it has held the first."""

ENDINGS: Final = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask for an end, whatever the user's code has done to them."""


class _TimedOut(BaseException):
    """Raised where the user's code stands when its time is over; no `except Exception` holds it."""


@contextlib.contextmanager
def guarded(what: str, seconds: float | None = SECONDS, about: str = "") -> Iterator[None]:
    """Run the block, which calls code of the user's; raise `UserError` for all that it raises.

    Afterwards working folder, random states, standard output, and torch's settings are as before.
    `what` begins every message, and `about` says what it was called with. A block that takes more
    than `seconds` is left; where even that is impossible (code that never comes back to Python), a
    parent process ends this one and says so, as it does for code that ends the process. A copy of
    the process that the block has made with `os.fork` and that leaves the block, too, ends here.
    """
    process, before = os.getpid(), _Before(what)
    interrupts: list[int] = []
    named = f"{what} ({about})" if about else what
    child.enter(named, seconds)
    try:
        with _alarm(seconds, interrupts):
            yield
    except BaseException as error:
        _leave(process, before)
        if isinstance(error, KeyboardInterrupt) and interrupts:  # the user's own hand
            raise
        if isinstance(error, UserError) and len(str(error)) <= LONGEST:
            raise
        raise UserError(shortened(f"{named}: {_problem(error, seconds)}")) from error
    _leave(process, before)


def _leave(process: int, before: _Before) -> None:
    if os.getpid() != process:  # a copy made by os.fork, which would go on with the run as well
        os._exit(0)
    before.restore()
    child.leave()


def _problem(error: BaseException, seconds: float | None) -> str:
    """What happened, and where in the user's code."""
    place = users_place(error)
    if isinstance(error, _TimedOut):
        return (
            f"has not returned after {seconds:g} s{place}; set run.function_seconds to more, or "
            "look for what it waits for"
        )
    if isinstance(error, SystemExit):
        return (
            f"raised SystemExit (it called exit or sys.exit with {error.code!r}){place}; let it "
            "return its numbers, or raise an error that says what is wrong"
        )
    return raised(error)


@contextlib.contextmanager
def _alarm(seconds: float | None, interrupts: list[int]) -> Iterator[None]:
    """Raise `_TimedOut` in the block after `seconds`; note Ctrl-C, which the user's code may raise
    by itself, too. Signals reach the main thread alone; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _TimedOut

    ending = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        assert callable(ending)
        try:
            ending(number, frame)
        except KeyboardInterrupt:
            interrupts.append(number)
            raise

    known: dict[int, Callable[..., None]] = {signal.SIGALRM: end}
    if ending is signal.default_int_handler or isinstance(ending, Request):
        known[signal.SIGINT] = interrupt
    handlers = {number: signal.signal(number, handler) for number, handler in known.items()}
    if seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Random:
    """The states of the generators that any code may draw from."""

    def __init__(self) -> None:
        self.python = random.getstate()
        self.numpy = np.random.get_state()  # noqa: NPY002 (the generator that user code draws from)
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def set(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002 (as above)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


_OWN: Final[dict[str, _Random]] = {}
"""By what is called: the states it left behind, so that it does not draw the same each time."""


class _Before:
    """What the user's code may change and the run relies on."""

    def __init__(self, what: str) -> None:
        self.what, self.random, self.folder = what, _Random(), _working_folder()
        if what in _OWN:
            _OWN[what].set()
        self.dtype, self.threads = torch.get_default_dtype(), torch.get_num_threads()
        self.gradient, self.device = torch.is_grad_enabled(), torch.get_default_device()
        self.depth = sys.getrecursionlimit()
        self.endings = {number: signal.getsignal(number) for number in ENDINGS}
        self.streams = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        self.copies = {number: _copy(number) for number in (1, 2)}

    def restore(self) -> None:
        """Make everything as it was."""
        if self.folder is not None:
            with contextlib.suppress(FileNotFoundError):  # it was removed
                os.chdir(self.folder)
        _OWN[self.what] = _Random()
        self.random.set()
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.gradient)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if torch.get_default_device() != self.device:
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        sys.setrecursionlimit(self.depth)
        self._restore_ending()
        self._restore_streams()

    def _restore_ending(self) -> None:
        """Let the process end when it is told to; only the main thread may say how."""
        main = threading.current_thread() is threading.main_thread()
        for number, handler in self.endings.items() if main else ():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler or signal.SIG_DFL)

    def _restore_streams(self) -> None:
        for (name, stream), (number, copy) in zip(
            self.streams.items(), self.copies.items(), strict=True
        ):
            if copy is None:
                continue
            with contextlib.suppress(OSError, ValueError, AttributeError):
                getattr(sys, name).flush()
            os.dup2(copy, number)
            os.close(copy)
            open_still = stream is None or not getattr(stream, "closed", False)
            setattr(sys, name, stream if open_still else _opened(number))


def _working_folder() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def _copy(number: int) -> int | None:
    """A second descriptor of the same file, not for child processes; None if it is not open."""
    try:
        return os.dup(number)
    except OSError:
        return None


def _opened(number: int) -> Any:
    """A text stream on the descriptor, which stays open when the stream is closed."""
    raw = open(number, "wb", closefd=False)  # noqa: SIM115 (stays open; a descriptor)
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)

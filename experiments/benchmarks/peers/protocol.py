"""How a program of the comparison talks to the driver: commands in, one JSON line out for each.

A program builds its models, opens a `Channel`, says that it is ready, and then does one iteration
for each line "iterate" until "quit" or the end of the input. While it waits it burns no processor
time, so programs can be run in turns. Nothing but the standard library.

Standard output carries JSON alone: what libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class Iteration:
    """What one PPO iteration took. The three phases are disjoint and add up to `whole`."""

    whole: float
    """Seconds from the command to the last optimizer step and the library's own statistics."""
    rollout: float | None
    """Seconds until all responses are known."""
    scoring: float | None
    """Seconds from there to the first minibatch: log-probabilities of policy and reference,
    values, reward model, advantages."""
    optimisation: float | None
    """Seconds of the PPO epochs, and of what the library does afterwards."""
    response_tokens: int
    optimizer_steps: int
    weight_change: float
    """Largest change of a watched weight: 0 would mean that nothing was trained."""


def resident_mb() -> float:
    """Resident memory of this process."""
    return _status("VmRSS")


def peak_mb() -> float:
    """Highest resident memory since `reset_peak`, or since the start where that is refused."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Let the peak start again from now; False where the system does not permit it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def return_freed() -> None:
    """Give freed memory back to the system, where the C library can, so that idle means idle."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Channel:
    """The program's end of the conversation."""

    def __init__(self) -> None:
        """Take standard output for JSON and send everything else that is printed elsewhere."""
        sys.stdout.flush()
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.idle_rss_mb = 0.0

    def ready(self, **facts: Any) -> None:
        """Libraries are imported and models stand: remember the idle memory, reset the peak."""
        gc.collect()
        return_freed()
        resets = reset_peak()
        self.idle_rss_mb = resident_mb()
        self._send({"ready": True, "idle_rss_mb": self.idle_rss_mb, "peak_resets": resets, **facts})

    def wants_iteration(self) -> bool:
        """Wait for the next command: True for "iterate", False for "quit" or no more input."""
        command = sys.stdin.readline().strip()
        if command not in {"iterate", "quit", ""}:
            raise ValueError(f"unknown command {command!r}: iterate, or quit")
        return command == "iterate"

    def report(self, iteration: Iteration) -> None:
        """Answer an "iterate"."""
        memory = {"peak_rss_mb": peak_mb(), "idle_rss_mb": self.idle_rss_mb}
        self._send(asdict(iteration) | memory)

    def fail(self, error: BaseException) -> None:
        """Say what went wrong; nothing follows."""
        self._send({"error": f"{type(error).__name__}: {error}"})

    def _send(self, answer: dict[str, Any]) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()


@contextmanager
def conversation() -> Iterator[Channel]:
    """A channel; an exception inside is reported on it and ends the program with status 1."""
    channel = Channel()
    try:
        yield channel
    except Exception as error:
        traceback.print_exc()
        channel.fail(error)
        raise SystemExit(1) from error


def serve(channel: Channel, iterate: Callable[[], Iteration]) -> None:
    """Answer commands until there are no more."""
    while channel.wants_iteration():
        channel.report(iterate())

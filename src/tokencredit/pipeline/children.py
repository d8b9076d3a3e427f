"""A stage's process as the one that starts it sees it: pipes, the start, the end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokencredit.machine.child import LIFELINE, MISTAKE
from tokencredit.machine.search_path import SAFE
from tokencredit.machine.stopping import holding


class Child(Protocol):
    """A stage's process, of this supervisor's (`subprocess.Popen`) or of another's."""

    @property
    def pid(self) -> int:
        """By which what it tells is known; negative if it is another's."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal."""

    def kill(self) -> None:
        """End it."""

    def wait(self) -> int:
        """Wait for its end; the exit code."""


class Pipes:
    """What children hear their parent's end from, and tell their mistakes through."""

    def __init__(self) -> None:
        """Open both."""
        self.lifeline, self._held = os.pipe()
        self.answer, self._told = os.pipe()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        text: bytes,
        folder: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start the process of a stage, which reads its configuration, `text`, from its standard
        input: one that is killed leaves no files behind."""
        own = {
            SAFE: "1",  # files of the working folder must not be taken for installed modules
            LIFELINE: str(self.lifeline),
            MISTAKE: str(self._told),
        }
        with holding():  # until it can tell a signal from its end
            child = subprocess.Popen(
                [sys.executable, "-m", "tokencredit.pipeline.worker", *arguments],
                env={**environment, **own},
                pass_fds=(self.lifeline, self._told),
                stdin=subprocess.PIPE,
                cwd=folder,
            )
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:  # it has ended; its exit code tells
            child.stdin.write(text)
        return child

    def close(self) -> None:
        """Close both; children that still run end."""
        for descriptor in (self.lifeline, self._held, self.answer, self._told):
            os.close(descriptor)


def end(children: Sequence[Child]) -> None:
    """Kill all that still run, and wait for their end."""
    for child in children:
        child.kill()
        child.wait()

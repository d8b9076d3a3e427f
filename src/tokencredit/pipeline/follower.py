"""A supervisor that is not the first of its launch: it does what rank 0 says (`supervisors`)."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.machine.child import Heard
from tokencredit.machine.stopping import Request, listening
from tokencredit.pipeline.children import Pipes, end
from tokencredit.pipeline.environment import without_ignored
from tokencredit.pipeline.launched import Launch
from tokencredit.pipeline.line import JOIN_SECONDS, POLL_SECONDS, SEEN_SECONDS, Line
from tokencredit.version import __version__

IDLE_SECONDS: Final = 0.25
"""Between looks for a signal, where there is no child."""


def follow_orders(launch: Launch, seconds: float = JOIN_SECONDS) -> int:
    """Do what rank 0 says until it ends; the exit code is its."""
    with listening() as asked:
        follower = _Follower(launch, _join(launch, seconds), asked)
        try:
            return follower.serve()
        finally:
            follower.leave()


def _join(launch: Launch, seconds: float) -> Line:
    """The line to rank 0, which may not listen yet."""
    until = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection((launch.address, launch.meeting), timeout=5.0)
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"rank {launch.rank}: rank 0 does not answer at {launch.address}:"
                    f"{launch.meeting} ({error.strerror or error}); it says what is wrong, or "
                    "its address (MASTER_ADDR) is not right"
                ) from error
            time.sleep(0.2)
            continue
        line = Line(connection)
        host = socket.gethostname()
        line.send(
            "hello", rank=launch.rank, size=launch.size, job=launch.job, host=host,
            version=__version__,
        )  # fmt: skip
        return line


class _Follower:
    """A supervisor that is not the first, with the child that it may have."""

    def __init__(self, launch: Launch, line: Line, asked: Request) -> None:
        self.launch, self.line, self.asked = launch, line, asked
        self.pipes: Pipes | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.heard = Heard(None)
        self.told = False

    def serve(self) -> int:
        """Until rank 0 says with which exit code to end."""
        does: dict[str, Callable[..., None]] = {
            "stage": self._stage,
            "signal": self._signal,
            "look": self._look,
        }
        while True:
            for message in self.line.messages():
                kind = message.pop("kind")
                if kind == "end":
                    return int(message["code"])
                does[kind](**message)
            if self.line.gone:
                host = self.launch.address
                raise UserError(f"rank {self.launch.rank}: rank 0 ({host}) is gone; see its output")
            if self.asked.by and not self.told:
                self.told = True
                self.line.send("told", entry=["asked", self.asked.by, None])
            self._relay()
            news = [self.line.connection.fileno()]
            if self.child is not None and self.pipes is not None:
                select.select([*news, self.pipes.answer], [], [], POLL_SECONDS)
            else:
                select.select(news, [], [], IDLE_SECONDS)

    def _relay(self) -> None:
        """Pass on what the child has told, and its end."""
        if self.child is None:
            return
        code = self.child.poll()  # before its last words are read
        for kind, _, text, seconds in self.heard.entries():
            self.line.send("told", entry=[kind, text, seconds])
        if code is not None:
            self.drop()
            self.line.send("ended", code=code)

    def _stage(
        self,
        *,
        arguments: list[str],
        text: str,
        environment: dict[str, str],
        count: int,
        port: int,
        folder: str,
    ) -> None:
        """Start a child, in `folder`."""
        self.pipes = Pipes()
        self.heard = Heard(self.pipes.answer)
        place = self.launch.place(count, port)
        given = {**without_ignored(os.environ), **environment, **place}
        self.child = self.pipes.start(arguments, given, text.encode(), folder)

    def _signal(self, *, number: int) -> None:
        """Pass a signal on to the child."""
        if self.child is not None:
            self.child.send_signal(number)

    def _look(self, *, files: list[str], folder: str) -> None:
        """Say which of `files` do not come to be seen, and whether the folder is there."""
        until = time.monotonic() + SEEN_SECONDS
        while missing := [file for file in files if not _lists(Path(file))]:
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        if not Path(folder).is_dir():
            missing.append(f"{folder}/.")
        self.line.send("seen", missing=missing)

    def drop(self) -> None:
        """End the child, if there is one."""
        if self.child is not None and self.pipes is not None:
            end([self.child])
            self.pipes.close()
        self.child = None

    def leave(self) -> None:
        """End, and let rank 0 know."""
        self.drop()
        self.line.connection.close()


def _lists(file: Path) -> bool:
    """Whether a file's folder lists it; a network's file system reads a folder anew when it is
    opened, and may remember for long that a file was not there."""
    with suppress(OSError):
        return file.name in os.listdir(file.parent)  # noqa: PTH208 (names alone)
    return False

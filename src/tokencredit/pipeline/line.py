"""Messages between the supervisors of a launch, which wait for each other as long as it takes."""

from __future__ import annotations

import json
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, TypeAlias

Message: TypeAlias = dict[str, Any]
JOIN_SECONDS: Final = 120.0
"""Longest time until all supervisors have come together."""
SEEN_SECONDS: Final = 30.0
"""Longest time until a file that one node has written is seen by another."""
SILENCE: Final = (10, 5, 4)
"""Seconds of silence before a connection is tried, between tries, and tries: half a minute."""
POLL_SECONDS: Final = 0.05
LONGEST: Final = 1 << 26
"""Bytes of a message; more are none of ours."""


class Line:
    """Messages between two supervisors, a JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        """Over a connection, whose end is noticed also where a node is gone without a word."""
        self.connection, self.gone, self.rest = connection, False, b""
        self.waiting: deque[Message] = deque()
        idle, between, tries = SILENCE
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in (
            ("TCP_KEEPIDLE", idle),
            ("TCP_KEEPINTVL", between),
            ("TCP_KEEPCNT", tries),
            ("TCP_USER_TIMEOUT", 1000 * (idle + between * tries)),
        ):
            if hasattr(socket, name):  # on Linux all are
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, kind: str, **message: object) -> None:
        """Send a message; nothing if the other one is gone, which `messages` finds out."""
        with suppress(OSError):
            self.connection.sendall(json.dumps({"kind": kind, **message}).encode() + b"\n")

    def messages(self) -> Iterator[Message]:
        """What has come until now; does not wait."""
        while True:
            while self.waiting:
                yield self.waiting.popleft()
            if self.gone:
                return
            try:
                piece = self.connection.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            *lines, self.rest = (self.rest + piece).split(b"\n")
            self.gone = not piece or len(self.rest) > LONGEST
            try:
                self.waiting.extend(dict(json.loads(line)) for line in lines)
            except (ValueError, TypeError):  # not one of us
                self.gone = True

    def next(self, seconds: float) -> Message | None:
        """The next message, waited for so long; None without one."""
        until = time.monotonic() + seconds
        while True:
            for message in self.messages():
                return message
            if self.gone or time.monotonic() > until:
                return None
            select.select([self.connection], [], [], POLL_SECONDS)

"""The processes that a launcher has started: the first one leads, the others lend it children.

Rank 0 composes, checks, and follows the stages as in a run without a launcher. The others wait at a
socket of its, through which it has them start, signal, and end one child each. They import nothing
heavy and know no configuration. Nobody waits with a time limit: the end of a process, or of its
node, ends the connection.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.machine.child import GRACE, Heard
from tokencredit.pipeline.launched import Launch
from tokencredit.pipeline.line import JOIN_SECONDS, POLL_SECONDS, SEEN_SECONDS, Line
from tokencredit.version import __version__

HERE: Final = ("localhost", "127.0.0.1", "::1")


class Remote:
    """A supervisor of another rank, and the child that it has been told to start (`Child`)."""

    def __init__(self, rank: int, host: str, line: Line) -> None:
        """`host`: what its machine is called."""
        self.rank, self.host, self.line = rank, host, line
        self.pid = -rank
        self.code: int | None = None
        self.seen: list[str] | None = None
        """Of the places that it was asked to look for, those that are not there."""

    @property
    def name(self) -> str:
        """What it is called in what is said."""
        return f"rank {self.rank} on {self.host}"

    def listen(self, heard: Heard) -> None:
        """Take in what it and its child have told."""
        for message in self.line.messages():
            if message["kind"] == "told":
                kind, text, seconds = message["entry"]
                heard.take(kind, self.pid, text, seconds)
            elif message["kind"] == "ended":
                self.code = int(message["code"])
            elif message["kind"] == "seen":
                self.seen = message["missing"]
        if self.line.gone:
            heard.failed.setdefault(self.pid, "is gone; what it printed says more")
            self.code = 1 if self.code is None else self.code

    def start(self, arguments: Sequence[str], **order: object) -> None:
        """Have it start its child."""
        self.code = None
        self.line.send("stage", arguments=[*arguments], **order)

    def poll(self) -> int | None:
        """The exit code of its child, as far as it was told."""
        return self.code

    def send_signal(self, sig: int, /) -> None:
        """Send its child a signal."""
        self.line.send("signal", number=int(sig))

    def kill(self) -> None:
        """End its child."""
        if self.code is None:
            self.line.send("signal", number=9)

    def wait(self) -> int:
        """Wait for the end of its child, which was killed; not for ever."""
        until = time.monotonic() + GRACE
        while self.code is None and time.monotonic() < until:
            self.listen(Heard(None))
            time.sleep(POLL_SECONDS)
        return 1 if self.code is None else self.code


class Crew:
    """All supervisors of a launch, as rank 0 knows them."""

    def __init__(self, launch: Launch, others: Sequence[Remote]) -> None:
        """`others` in order of rank."""
        self.launch, self.others = launch, list(others)
        self.stages = 0
        """How many stages of several processes were started."""
        self.asked = ""
        """The signal that has asked another one to stop."""

    def listen(self, heard: Heard) -> bool:
        """Take in what all have told; whether all are still there."""
        for other in self.others:
            other.listen(heard)
        self.asked = self.asked or heard.asked
        return not any(other.line.gone for other in self.others)

    def next_port(self, stage: str) -> int:
        """The port of the next stage, on which nothing may listen."""
        self.stages += 1
        port = self.launch.port + self.stages
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise UserError(in_use(self.launch, port, f"stage {stage}", error)) from error
        return port

    def check_shared(self, folders: Sequence[Path]) -> None:
        """Raise unless all supervisors see what this one writes to `folders`, and its working
        folder."""
        probes = [folder.absolute() / f".probe-{secrets.token_hex(8)}" for folder in folders]
        try:
            for probe in probes:
                probe.touch()
            for other in self.others:
                other.seen = None
                other.line.send("look", files=list(map(str, probes)), folder=str(Path.cwd()))
            heard, until = Heard(None), time.monotonic() + SEEN_SECONDS + GRACE
            while any(other.seen is None for other in self.others):
                if not self.listen(heard) or time.monotonic() > until:
                    break
                time.sleep(POLL_SECONDS)
        finally:
            for probe in probes:
                probe.unlink(missing_ok=True)
        for other in self.others:
            if other.seen:
                place = other.seen[0].rpartition("/")[0]
                raise UserError(
                    f"{place}: {other.name} does not find there what rank 0 has written, within "
                    f"{SEEN_SECONDS:g} s; store, runs, and working folder must lie on a file "
                    "system that all nodes share: set store=… and runs_dir=…"
                )
            if other.seen is None:
                raise UserError(f"{other.name} is gone; what it printed says more")

    def dismiss(self, code: int) -> None:
        """Let the others end with that exit code."""
        for other in self.others:
            other.line.send("end", code=code)
            other.line.connection.close()


CREWS: list[Crew] = []
"""Of this process, if it is the first of a launch."""


def in_use(launch: Launch, port: int, what: str, error: OSError) -> str:
    """What is said of a port that cannot be listened at."""
    return (
        f"MASTER_PORT = {launch.port}: port {port} (MASTER_PORT + {port - launch.port}), which "
        f"{what} takes, cannot be used on {socket.gethostname()} ({error.strerror}); end what "
        f"listens there, or choose another with {launch.port_flag}"
    )


def lead(launch: Launch, seconds: float = JOIN_SECONDS) -> Crew:
    """Wait until all others have come; from then on they do what this process says."""
    try:
        door = _open(launch)
    except OSError as error:
        said = in_use(launch, launch.meeting, "the meeting of all ranks", error)
        raise UserError(said) from error
    found: dict[int, Remote] = {}
    until = time.monotonic() + seconds
    with door:
        try:
            while len(found) < launch.size - 1:
                door.settimeout(max(until - time.monotonic(), 0.01))
                other = _welcome(launch, Line(door.accept()[0]))
                if other is not None:
                    found[other.rank] = other
        except TimeoutError:
            missing = [str(rank) for rank in range(1, launch.size) if rank not in found]
            raise UserError(
                f"{launch.launcher}: of {launch.size} ranks {', '.join(missing)} did not come "
                f"to {launch.address}:{launch.meeting} within {seconds:g} s; are all nodes "
                "started, with one master address and port, and does no firewall lie between?"
            ) from None
        finally:
            crew = Crew(launch, [found[rank] for rank in sorted(found)])
            CREWS.append(crew)  # those who have come are dismissed in any case
    return crew


def _open(launch: Launch) -> socket.socket:
    """A socket at which the others find this process, from this machine alone if all are on it."""
    if launch.address in HERE:
        return socket.create_server(("127.0.0.1", launch.meeting), backlog=launch.size)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    place = ("", launch.meeting)
    return socket.create_server(place, family=family, backlog=launch.size, dualstack_ipv6=both)


def _welcome(launch: Launch, line: Line) -> Remote | None:
    """The supervisor at the other end; None for somebody who is none of this launch."""
    hello = line.next(5.0) or {}
    if (hello.get("kind"), hello.get("size"), hello.get("job")) != (
        "hello",
        launch.size,
        launch.job,
    ):
        line.connection.close()
        return None
    other = Remote(int(hello["rank"]), str(hello["host"]), line)
    if hello["version"] != __version__:
        line.connection.close()
        raise UserError(
            f"{other.name} has tokencredit {hello['version']}, rank 0 has "
            f"{__version__}; install the same version on all nodes"
        )
    return other

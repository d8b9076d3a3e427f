"""Rank 0 and the other supervisors, in threads, with small programs as their children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokencredit.errors import UserError
from tokencredit.machine.child import MISTAKE, Heard
from tokencredit.pipeline import follower, process, supervisors
from tokencredit.pipeline.follower import follow_orders
from tokencredit.pipeline.launched import MEETING, Launch
from tokencredit.pipeline.line import Line
from tokencredit.pipeline.process import free_port
from tokencredit.pipeline.supervisors import CREWS, Crew, lead

ROLE = Launch(
    launcher="torchrun", rank=0, size=2, local_rank=0, local_size=2, address="127.0.0.1", port=1
)
CHILD = """
import json, os, signal, sys, time
told, text = int(os.environ[{mistake!r}]), sys.stdin.read()
def tell(kind, text):
    os.write(told, json.dumps([kind, os.getpid(), text, None]).encode() + b"\\n")
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
tell("mistake", " ".join([text, os.environ["RANK"], os.environ["MASTER_PORT"], os.getcwd()]))
if sys.argv[-1] == "fails":
    tell("failed", "ValueError: too large")
    sys.exit(3)
while sys.argv[-1] == "waits":
    time.sleep(0.01)
"""


@pytest.fixture
def role() -> Iterator[Launch]:
    """Rank 0 of two, at a port of its own."""
    yield replace(ROLE, port=free_port() - MEETING)
    for crew in CREWS:
        crew.dismiss(0)
    CREWS.clear()


@pytest.fixture
def ends() -> list[object]:
    """What the other supervisors came to: an exit code or an error."""
    return []


@pytest.fixture
def crew(role: Launch, ends: list[object], monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """Rank 0 with the other one beside it, whose children are `CHILD`."""
    started = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        code = CHILD.format(mistake=MISTAKE)
        return started([command[0], "-c", code, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", start)

    def follow() -> None:
        try:
            ends.append(follow_orders(replace(role, rank=1, local_rank=1), 10))
        except UserError as error:
            ends.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    found = lead(role, 10)
    yield found
    found.dismiss(0)
    thread.join(10)
    assert not thread.is_alive()


def begin(crew: Crew, how: str, folder: Path) -> supervisors.Remote:
    """Let the other one start a child."""
    (other,) = crew.others
    order = {"text": "config", "environment": {"A": "b"}, "count": 2, "port": 1234}
    other.start(["rl", how], folder=str(folder), **order)
    return other


def heard_until(crew: Crew, condition: Callable[[Heard], object]) -> Heard:
    """What was told until something was."""
    heard, until = Heard(None), time.monotonic() + 10
    while not condition(heard):
        assert time.monotonic() < until
        crew.listen(heard)
        time.sleep(0.01)
    return heard


def test_a_child_of_another_supervisor_is_followed_like_an_own_one(
    crew: Crew, ends: list[object], tmp_path: Path
) -> None:
    other = begin(crew, "waits", tmp_path)
    heard = heard_until(crew, lambda heard: heard.mistake)
    assert heard.mistake == f"config 1 1234 {tmp_path}"
    assert other.poll() is None
    other.send_signal(signal.SIGUSR1)
    heard_until(crew, lambda _: other.poll() == 75)
    assert other.wait() == 75

    other = begin(crew, "fails", tmp_path)
    heard = heard_until(crew, lambda _: other.poll() is not None)
    assert other.poll() == 3 and heard.failed == {-1: "ValueError: too large"}

    other = begin(crew, "waits", tmp_path)
    heard_until(crew, lambda heard: heard.mistake)
    other.kill()
    assert other.wait() == -signal.SIGKILL
    crew.dismiss(75)
    heard_until(crew, lambda _: ends)
    assert ends == [75]


def test_the_end_of_rank_0_ends_the_others_and_their_children(
    crew: Crew, ends: list[object], tmp_path: Path
) -> None:
    begin(crew, "waits", tmp_path)
    heard_until(crew, lambda heard: heard.mistake)
    crew.others[0].line.connection.shutdown(socket.SHUT_RDWR)
    until = time.monotonic() + 10
    while not ends and time.monotonic() < until:
        time.sleep(0.01)
    assert "rank 1: rank 0 (127.0.0.1) is gone" in str(ends[0])


def test_a_supervisor_that_is_gone_is_named(role: Launch) -> None:
    line = joined(role, {"kind": "hello", "rank": 1, "size": 2, "job": "", "host": "node7"})
    (crew,) = CREWS
    line.connection.close()
    heard = heard_until(crew, lambda heard: heard.failed)
    assert not crew.listen(heard)
    assert heard.failed == {-1: "is gone; what it printed says more"}
    assert crew.others[0].poll() == 1 and crew.others[0].name == "rank 1 on node7"
    with pytest.raises(UserError, match="rank 1 on node7 is gone"):
        crew.check_shared([])


def connected(role: Launch) -> Line:
    """A line to rank 0, as soon as that listens."""
    until = time.monotonic() + 5
    while True:
        try:
            return Line(socket.create_connection(("127.0.0.1", role.meeting), timeout=1))
        except OSError:
            assert time.monotonic() < until


def joined(role: Launch, hello: dict[str, object]) -> Line:
    """The line of somebody who says hello to rank 0, once that has let them in."""
    from tokencredit.version import __version__

    met: list[object] = []
    thread = threading.Thread(target=lambda: met.append(lead(role, 5)))
    thread.start()
    line = connected(role)
    line.send(str(hello.pop("kind")), version=__version__, **hello)
    thread.join(10)
    assert met
    return line


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b'["a list"]\n', b'{"kind": "hello", "size": 3, "job": ""}\n', b""],
)
def test_strangers_at_the_door_are_sent_away(role: Launch, said: bytes) -> None:
    """And who does not come within the time is named."""
    found: list[str] = []

    def wait() -> None:
        with pytest.raises(UserError) as error:
            lead(role, 1.0)
        found.append(str(error.value))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", role.meeting), timeout=5) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""
    thread.join(10)
    assert f"of 2 ranks 1 did not come to 127.0.0.1:{role.meeting} within 1 s" in found[0]


def test_another_version_is_refused(role: Launch) -> None:
    def come() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(follower, "__version__", "0.0.9")
            with pytest.raises(UserError):
                follow_orders(replace(role, rank=1), 10)

    thread = threading.Thread(target=come)
    thread.start()
    with pytest.raises(UserError, match=r"has tokencredit 0\.0\.9, rank 0 has"):
        lead(role, 10)
    thread.join(10)


def test_rank_0_that_never_answers_is_named(role: Launch) -> None:
    with pytest.raises(UserError, match=rf"rank 1: rank 0 does not answer at .*:{role.meeting}"):
        follow_orders(replace(role, rank=1), 0.3)


def test_a_port_in_use_is_named_with_the_remedy(crew: Crew) -> None:
    """That of a stage, and that of the meeting."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        crew.launch = replace(crew.launch, port=taken - 2)
        crew.stages = 1
        with pytest.raises(UserError) as error:
            crew.next_port("rl")
        said = str(error.value)
        assert f"port {taken} (MASTER_PORT + 2), which stage rl takes, cannot be used" in said
        assert "--master_port=…" in said
        with pytest.raises(UserError, match="the meeting of all ranks takes"):
            lead(replace(crew.launch, port=taken - MEETING), 1.0)


def test_folders_must_be_seen_by_all(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "store", tmp_path / "runs"]
    for place in places:
        place.mkdir()
    crew.check_shared(places)
    assert not [*places[0].iterdir(), *places[1].iterdir()]
    monkeypatch.setattr(follower, "SEEN_SECONDS", 0.1)
    monkeypatch.setattr(follower, "_lists", lambda file: file.parent.name != "runs")
    with pytest.raises(UserError) as error:
        crew.check_shared(places)
    assert f"{places[1]}: rank 1 on {socket.gethostname()} does not find there" in str(error.value)
    assert "store=… and runs_dir=…" in str(error.value)
    assert not list(places[1].iterdir())


def test_a_signal_to_another_supervisor_asks_rank_0(role: Launch) -> None:
    """In a process of its own: only the main thread gets signals."""
    program = (
        "import sys; from dataclasses import replace\n"
        "from tokencredit.pipeline.follower import follow_orders\n"
        "from tokencredit.pipeline.launched import Launch\n"
        f"sys.exit(follow_orders({replace(role, rank=1)!r}))"
    )
    other = subprocess.Popen([sys.executable, "-c", program], env=dict(os.environ))
    try:
        crew = lead(role, 30)
        other.send_signal(signal.SIGTERM)
        heard_until(crew, lambda heard: heard.asked == "SIGTERM")
        assert crew.asked == "SIGTERM" and other.poll() is None, "it waits for what rank 0 says"
        crew.dismiss(75)
        assert other.wait(10) == 75
    finally:
        other.kill()
        other.wait()


class Ended:
    """A child that ends with a code at some look, and tells an error before."""

    def __init__(self, pid: int, looks: int, code: int) -> None:
        self.pid, self.looks, self.code = pid, looks, code

    def poll(self) -> int | None:
        self.looks -= 1
        return self.code if self.looks < 0 else None

    def send_signal(self, sig: int, /) -> None:
        raise AssertionError

    def kill(self) -> None:
        raise AssertionError

    def wait(self) -> int:
        return self.code


@pytest.mark.parametrize(
    ("children", "told", "code", "where"),
    [
        ([Ended(7, 0, 1), Ended(8, 1, -9)], {7: "connection lost"}, -9, "rank 1"),
        ([Ended(7, 1, 1), Ended(8, 0, 1)], {8: "ValueError", 7: "lost"}, 1, "rank 1: ValueError"),
        ([Ended(7, 0, 1), Ended(8, 999, 0)], {7: "ValueError"}, 1, "rank 0: ValueError"),
        ([Ended(7, 0, 0), Ended(8, 0, 3)], {}, 3, "rank 1"),
    ],
)
def test_the_rank_that_the_others_fail_for_is_named(
    children: list[Ended],
    told: dict[int, str],
    code: int,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that was killed, though the other was seen to fail before; else who told an error first."""
    monkeypatch.setattr(process, "CAUSE_SECONDS", 0.2)
    heard = Heard(None, failed=dict(told))
    assert process._cause(children, heard) == code
    assert process._where(children, heard) == where

"""Stage processes of a command as forks of a process beside it, which has imported all that a stage
needs and done nothing else: that spares each stage its seconds of imports.

The process of a stage is no child of the command then, but of its nursery, which ends with the
command and takes the stages along. `tokencredit.pipeline.worker` runs in it as in a new Python,
with the same variables; those that libraries read when they are loaded are told to them anew.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Final, NoReturn

from accelerate.state import AcceleratorState

from shapes import unchecked
from tokencredit.machine.child import LIFELINE, MISTAKE
from tokencredit.machine.stopping import SIGNALS, holding
from tokencredit.pipeline.children import Pipes

PR_SET_PDEATHSIG: Final = 1
MALLOC: Final = {"MALLOC_MMAP_MAX_": -4, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}
"""Variables that glibc reads when a process starts, and its `mallopt` parameters (malloc.h)."""
LONGEST: Final = 1 << 20
"""Bytes of a request."""
PAUSE: Final = 0.02
OF_A_STAGE: Final = (
    "tokencredit.pipeline.worker",
    "tokencredit.pipeline.pipeline",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "peft",
)
"""What is imported before a fork, so that not each has to."""


@contextmanager
def nursed() -> Iterator[None]:
    """Within, this process starts stages as forks of what it is now."""
    for module in OF_A_STAGE:
        import_module(module)
    nursery, own = Nursery(), Pipes.start

    def start(pipes: Pipes, *given: Any) -> Any:
        return nursery.start(pipes, *given)

    Pipes.start = start  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Pipes.start = own  # type: ignore[method-assign]
        nursery.close()


class Nursery:
    """The process beside a command, as the command sees it."""

    def __init__(self) -> None:
        """Start it; nothing of the command may have happened yet."""
        self.line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.codes: dict[int, int] = {}
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.line.close()
                _tend(other)
            finally:  # nothing of the command's, or of a test's, may happen twice
                os._exit(1)
        other.close()

    def start(
        self,
        pipes: Pipes,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        text: bytes,
        folder: str | None = None,
    ) -> Forked:
        """As `Pipes.start`."""
        request = {
            "arguments": [*arguments],
            "environment": {**environment},
            "folder": folder or os.getcwd(),  # noqa: PTH109 — as it is, links and all
        }
        with tempfile.TemporaryFile() as given, holding():
            given.write(text)
            given.seek(0)
            handed = [given.fileno(), pipes.lifeline, pipes._told]
            socket.send_fds(self.line, [json.dumps(request).encode()], handed)
            while (child := self._told()) is None:
                pass
        return Forked(self, child)

    def close(self) -> None:
        """Let it end; stages that still run end too."""
        self.line.close()
        os.waitpid(self.pid, 0)

    def listen(self) -> None:
        """Take in which stages have ended."""
        with suppress(BlockingIOError):
            while True:
                self._told(socket.MSG_DONTWAIT)

    def _told(self, flags: int = 0) -> int | None:
        """Take in one thing that was told: the end of a stage; or which it has started."""
        said = self.line.recv(LONGEST, flags)
        if not said:
            raise RuntimeError("the process that starts stages is gone")
        pid, code = json.loads(said)
        if code is None:
            return int(pid)
        self.codes[pid] = code
        return None


class Forked:
    """A stage's process (`tokencredit.pipeline.children.Child`)."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        """`pid`: of the process."""
        self.nursery, self.pid = nursery, pid

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        self.nursery.listen()
        return self.nursery.codes.get(self.pid)

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        while (code := self.poll()) is None:
            time.sleep(PAUSE)
        return code


def _tend(line: socket.socket) -> NoReturn:
    """Fork what is asked for, and tell of each that has ended, until the command is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a stage lets them come when it is ready
    line.settimeout(PAUSE)
    running: set[int] = set()
    while True:
        with suppress(TimeoutError):
            said, handed, *_ = socket.recv_fds(line, LONGEST, 3)
            if not said:
                os._exit(0)
            child = os.fork()
            if child == 0:
                line.close()
                _be_the_stage(json.loads(said), handed)
            for descriptor in handed:
                os.close(descriptor)
            running.add(child)
            line.send(json.dumps([child, None]).encode())
        for child in [*running]:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                running.remove(child)
                line.send(json.dumps([child, os.waitstatus_to_exitcode(status)]).encode())


def _be_the_stage(request: dict[str, object], handed: list[int]) -> NoReturn:
    """Turn this process into the worker of a stage."""
    code: object = 1
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _worked(request, handed)
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 — as the interpreter would
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _worked(request: dict[str, object], handed: list[int]) -> int:
    """The exit code of the worker."""
    from tokencredit.pipeline import worker

    given, lifeline, told = handed
    sys.stdin = os.fdopen(given, encoding="utf-8")  # the one before may close 0 as it goes
    os.dup2(given, 0)
    environment, arguments, folder = (
        request[name] for name in ("environment", "arguments", "folder")
    )
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment, **{LIFELINE: str(lifeline), MISTAKE: str(told)})
    sys.path[:] = [each for each in sys.path if each not in {"", os.getcwd()}]  # noqa: PTH109
    os.chdir(str(folder))
    tempfile.tempdir = None
    become_new(environment)
    sys.argv = [worker.__file__, *arguments]
    with unchecked():  # as in a program, where classes of users' own may do what runs
        return worker.main(arguments)


def become_new(environment: Mapping[str, str]) -> None:
    """Forget what accelerate knows of the process that was forked, and tell glibc what a new one
    would have read from its variables."""
    AcceleratorState._reset_state(reset_partial_state=True)
    for name, parameter in MALLOC.items():
        if name in environment:
            ctypes.CDLL(None).mallopt(parameter, int(environment[name]))

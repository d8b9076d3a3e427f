"""Commands of `tokencredit` in a fork of the test's process, which spares each a start of Python with torch.

A fork is a process of its own: what it does to its environment, its modules, and its working folder
does not reach the test. It shares the test's hash seed; where that matters, start Python anew. The
stages that it trains are forks as well (nursery.py).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, NoReturn

from ended import Ended
from nursery import OF_A_STAGE, become_new, nursed

PATIENCE = 300.0
"""Seconds that a command may take."""
OF_A_PLAN = (
    "tokencredit.cli",
    "tokencredit.train",
    "tokencredit.sweeps.cell",
    *OF_A_STAGE,
)
"""What is imported before the fork, so that not each child has to: a third of its time."""
OF_A_RANK = (*OF_A_STAGE, "accelerate", "deepspeed")
"""The same for processes that train together."""


def forked(
    arguments: tuple[str, ...],
    folder: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], object] = lambda: None,
) -> Ended:
    """`tokencredit ARGUMENTS` in `folder` with these variables alone, to its end; `prepare` is
    called in its process first."""
    for module in OF_A_PLAN:
        import_module(module)
    return Fork(partial(_command, arguments, prepare), folder, environment).ended()


def forked_ranks(
    work: Callable[[], object], environments: Sequence[Mapping[str, str]], given: bytes = b""
) -> list[Ended]:
    """`work` in a process for each of these environments, all at once, to their ends.

    Each reads `given` from its standard input, and has one thread.
    """
    for module in OF_A_RANK:
        import_module(module)
    folder = Path.cwd()
    forks = [Fork(partial(_rank, work), folder, each, given) for each in environments]
    return [fork.ended() for fork in forks]


class Fork:
    """A process that does something and ends."""

    def __init__(
        self,
        work: Callable[[], object],
        folder: Path,
        environment: Mapping[str, str],
        given: bytes = b"",
    ) -> None:
        """Start it: `work` returns its exit code, None for 0."""
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as source:
            source.write(given)
            source.seek(0)
            self.pid = os.fork()
            if self.pid == 0:
                _be(work, folder, environment, (source, self.out, self.err))

    def ended(self) -> Ended:
        """Wait for its end; what it left behind."""
        code, texts = _ended(self.pid), []
        for stream in (self.out, self.err):
            with stream:
                stream.seek(0)
                texts.append(stream.read().decode())
        return Ended(code, *texts)


def _ended(child: int) -> int:
    """The exit code of a child, which is killed when it takes too long; negative for a signal."""
    until = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"the command was not over after {PATIENCE} s")
        time.sleep(0.01)


def _be(
    work: Callable[[], object],
    folder: Path,
    environment: Mapping[str, str],
    streams: tuple[BinaryIO, BinaryIO, BinaryIO],
) -> NoReturn:
    """Turn this process into what does the work; it returns to no test, whatever happens."""
    code: object = 1
    try:
        _begin(folder, environment, streams)
        code = work()
    except BaseException:  # noqa: BLE001 — as the interpreter would
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0 if code is None else code if isinstance(code, int) else 1)


def _begin(
    folder: Path, environment: Mapping[str, str], streams: tuple[BinaryIO, BinaryIO, BinaryIO]
) -> None:
    """Give the process what the interpreter gives a new one."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", buffering=1)  # noqa: SIM115, PTH123
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    given = dict(environment)  # which may be os.environ itself
    os.environ.clear()
    os.environ.update(given)
    os.chdir(folder)
    sys.path.append(str(folder))
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)


def _rank(work: Callable[[], object]) -> None:
    become_new(os.environ)
    work()


def _command(arguments: tuple[str, ...], prepare: Callable[[], object]) -> object:
    """What the command exits with."""
    from hydra.core.global_hydra import GlobalHydra
    from transformers.utils import logging

    from tokencredit import cli

    GlobalHydra.instance().clear()
    logging.set_verbosity_error()
    sys.argv = ["tokencredit", *arguments]
    prepare()
    try:
        with nursed():
            cli.main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return 0 if ended.code is None else ended.code
    return 0

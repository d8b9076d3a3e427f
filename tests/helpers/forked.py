"""Commands of `tokencredit` in a fork of the test's process, which spares each a start of Python with torch.

A fork is a process of its own: what it does to its environment, its modules, and its working folder
does not reach the test. It shares the test's hash seed; where that matters, start Python anew.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, NoReturn

from ended import Ended

PATIENCE = 300.0
"""Seconds that a command may take."""
OF_A_PLAN = (
    "tokencredit.cli",
    "tokencredit.train",
    "tokencredit.sweeps.cell",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "peft",
)
"""What is imported before the fork, so that not each child has to: a third of its time."""


def forked(arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> Ended:
    """`tokencredit ARGUMENTS` in `folder` with these variables alone, to its end."""
    for module in OF_A_PLAN:
        import_module(module)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _be_the_command(arguments, folder, environment, (out, err))
        code = _ended(child)
        texts = []
        for stream in (out, err):
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


def _be_the_command(
    arguments: tuple[str, ...],
    folder: Path,
    environment: Mapping[str, str],
    streams: tuple[BinaryIO, BinaryIO],
) -> NoReturn:
    """Turn this process into the command; it returns to no test, whatever happens."""
    code: object = 1
    try:
        _begin(folder, environment, streams)
        sys.argv = ["tokencredit", *arguments]
        code = _run()
    except BaseException:  # noqa: BLE001 — as the interpreter would
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _begin(
    folder: Path, environment: Mapping[str, str], streams: tuple[BinaryIO, BinaryIO]
) -> None:
    """Give the process what the interpreter gives a new one."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate((nothing, *(stream.fileno() for stream in streams))):
        os.dup2(source, number)
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


def _run() -> object:
    """What the command exits with."""
    from hydra.core.global_hydra import GlobalHydra
    from transformers.utils import logging

    from tokencredit import cli

    GlobalHydra.instance().clear()
    logging.set_verbosity_error()
    try:
        cli.main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return 0 if ended.code is None else ended.code
    return 0

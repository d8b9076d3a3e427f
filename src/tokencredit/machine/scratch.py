"""One temporary folder for a command and all that it starts, which nothing outlives for long.

Libraries make temporary files of their own (W&B a folder for media), and a process that is killed
leaves them behind. Here they all lie in a folder of the command: it goes when the command ends,
also by a signal, and that of a command that was killed goes with the next one.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

VARIABLE: Final = "TMPDIR"
"""Names the folder for temporary files to programs in any language."""
NAME: Final = re.compile(r"tokencredit-(?P<host>[0-9a-f]{8})-[0-9]+-[a-z0-9_]{8}")
"""A hash of the machine's name, the process, and what no other folder has."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
"""What ends a process from outside, if nobody has said otherwise."""
ATTEMPTS: Final = 5
"""Tries where another command sweeps at the same moment, or a child still writes."""


@contextmanager
def temporary_folder() -> Iterator[None]:
    """Let this process and those it starts have a folder of their own for temporary files.

    Within another one it changes nothing; where none can be made, the system's is used.
    """
    before = os.environ.get(VARIABLE), tempfile.tempdir
    made = None if NAME.fullmatch(Path(tempfile.gettempdir()).name) else _make()
    if made is None:
        yield
        return
    folder, held = made
    with _removing_at_signals(folder):
        try:
            sweep(folder.parent)
            os.environ[VARIABLE] = tempfile.tempdir = str(folder)
            yield
        finally:
            tempfile.tempdir = before[1]
            if before[0] is None:
                os.environ.pop(VARIABLE, None)
            else:
                os.environ[VARIABLE] = before[0]
            _remove(folder)
            os.close(held)


def sweep(parent: Path) -> None:
    """Remove the folders in `parent` that commands of this user and machine have left behind.

    A command holds a lock on its folder until its process is gone, however it ended. What has
    another kind of name, another owner, or is a link stays, and so does all that cannot be locked.
    """
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            name = NAME.fullmatch(entry.name)
            if name is None or name["host"] != _host():
                continue
            with suppress(OSError):
                held = _hold(Path(entry.path))
                try:
                    _remove(Path(entry.path))
                finally:
                    os.close(held)


def _make() -> tuple[Path, int] | None:
    """A new folder and the descriptor that holds it; None where none can be made."""
    for _ in range(ATTEMPTS):
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"tokencredit-{_host()}-{os.getpid()}-"))
        except OSError:
            return None
        with suppress(OSError):  # another command has just swept it away
            return folder, _hold(folder)
        with suppress(OSError):
            folder.rmdir()
    return None


def _hold(folder: Path) -> int:
    """A descriptor that locks a folder of this user's; OSError if it is none, or another's."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, opened = folder.lstat(), os.fstat(held)
        if not os.path.samestat(there, opened) or opened.st_uid != os.geteuid():
            raise PermissionError(f"{folder} is another's")
    except OSError:
        os.close(held)
        raise
    return held


def _remove(folder: Path) -> None:
    """Remove a folder, under another name, so that a child that still writes finds it gone.

    The name is of the same kind: what a kill leaves of it goes with the next command too.
    """
    gone = folder.with_name(f"{folder.name.rpartition('-')[0]}-{secrets.token_hex(4)}")
    try:
        folder.rename(gone)
    except OSError:
        gone = folder
    for _ in range(ATTEMPTS):
        shutil.rmtree(gone, ignore_errors=True)
        if not gone.exists():
            return


@contextmanager
def _removing_at_signals(folder: Path) -> Iterator[None]:
    """Within, `SIGNALS` remove the folder before they end the process, unless they are ignored.

    Nothing is raised, so that no code of the user's or a library's can hold it up.
    """
    main = threading.current_thread() is threading.main_thread()
    deadly = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:  # not a copy of it that os.fork has made
            _remove(folder)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in deadly if main else ():
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in deadly if main else ():
            signal.signal(number, signal.SIG_DFL)


def _host() -> str:
    """Eight characters for the name of this machine: a folder may be shared by several."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"

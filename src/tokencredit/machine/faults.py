"""What a machine did: a full disk, a file that may not be read. One line, with its remedy."""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.redaction import redacted

REMEDIES: Final = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose another place, or have it mounted for writing",
    errno.EACCES: "allow it (chmod, chown), or choose another place",
    errno.EPERM: "allow it (chmod, chown, chattr), or choose another place",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the system's limit on open files",
    errno.EIO: "the disk or its connection fails; check it",
    errno.ESTALE: "the network file system has lost it; mount it again",
    errno.ENOTCONN: "the network file system is gone; mount it again",
    errno.ENOLCK: "choose a place on a file system that has locks",
    errno.EISDIR: "a file is wanted there; move the folder away",
    errno.ENOTDIR: "a folder is wanted there; move the file away",
    errno.EEXIST: "it is in the way; move it away",
    errno.ENOTEMPTY: "another process writes there; end it",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its links lead in a circle; repair them",
    errno.ENOMEM: "free memory, or make the batches smaller",
}
"""By number of the error; what is not in here is no fault of the machine but a bug of ours."""
RUST: Final = re.compile(r"\b(?:code: |os error )(\d+)")
"""safetensors and tokenizers pass errors of the operating system on as text."""
TORCH: Final = re.compile(r"PytorchStreamWriter failed|iostream error|file write failed")
"""torch says that writing failed, not why."""
NO_LOCKS: Final = "does not appear to support flock"
LONGEST: Final = 2000
"""Characters of a message that are shown."""
GOES_ON: Final = "what was finished is kept, and the same command goes on"


LIBRARIES: Final = frozenset({"site-packages", "dist-packages"})


def fault(error: BaseException, place: Path | None = None) -> UserError | None:
    """The machine's fault behind an exception, in one line; None if it is something else.

    `place` is named where the error itself names no file.
    """
    for link in chain(error):
        number, named = _number(link), getattr(link, "filename", None)
        if number is not None:
            said, remedy = os.strerror(number).lower(), REMEDIES[number]
        elif isinstance(link, RuntimeError) and TORCH.search(str(link)):
            said, remedy = "a file could not be written", f"{REMEDIES[errno.ENOSPC]}, or see ulimit"
        else:
            continue
        where = named if isinstance(named, str) else place
        head = said if where is None else f"{where}: {said}"
        return UserError(f"{head}; {remedy}; {GOES_ON}")
    return None


def unreadable(error: BaseException, folders: Iterable[Path]) -> UserError | None:
    """Which weights file in `folders` cannot be read, if that is what an exception speaks of."""
    from safetensors import SafetensorError, safe_open

    if not any(isinstance(link, SafetensorError) for link in chain(error)):
        return None
    for path in (path for folder in folders for path in sorted(folder.rglob("*.safetensors"))):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    file.get_slice(name)
        except (SafetensorError, OSError) as found:
            return UserError(
                f"{path}: is no readable weights file ({found}); restore it, or delete its folder "
                "to have it made again"
            )
    return UserError(f"a weights file cannot be read ({error}); restore it")


def users_own(error: BaseException) -> UserError | None:
    """What the user's own code has raised, a plug-in's class for instance; None if it is ours."""
    ended = isinstance(error, SystemExit)  # what it came of has been said, if we raised it
    for link in [error] if ended else chain(error):
        if users_place(link):
            stopped = isinstance(link, SystemExit)  # code 0 would say that all is done
            remedy = "; let it raise an error that says what is wrong" if stopped else ""
            return UserError(f"the user's own code {raised(link)}{remedy}")
    return None


def raised(error: BaseException) -> str:
    """What an exception says, cut to one line, and where in the user's code it comes from."""
    try:
        said = str(error)
    except Exception as failure:  # noqa: BLE001 (an exception of the user's may be unable to say)
        said = f"(its message cannot be made: {type(failure).__name__})"
    return shortened(f"raised {type(error).__name__}: {said}") + users_place(error)


def users_place(error: BaseException) -> str:
    """The last line of the user's own that was running; empty without one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_users(Path(frame.filename))]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def shortened(text: str) -> str:
    """`text` on one line, cut behind so many characters that it can still be read."""
    line = redacted(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those it came from."""
    seen: set[int] = set()  # a library may make an exception the cause of itself
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    """The number of the operating system's error, if it is one of `REMEDIES`."""
    if isinstance(error, OSError) and error.errno is not None:
        number = error.errno
    elif isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif NO_LOCKS in str(error):
        number = errno.ENOLCK
    else:
        found = RUST.search(str(error))
        number = int(found[1]) if found else 0
    return number if number in REMEDIES else None


def is_users(file: Path) -> bool:
    """Whether a file is no part of Python, of an installed package, or of this one."""
    own = not LIBRARIES & set(file.parts) and not any(map(file.is_relative_to, _installed()))
    return own and file.is_file()


@cache
def _installed() -> tuple[Path, ...]:
    places = sysconfig.get_paths()
    known = [Path(places[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (*known, *(path.resolve() for path in known), Path(__file__).parents[1])

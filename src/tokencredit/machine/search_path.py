"""Where Python looks for modules when a command of ours runs: never in the working folder first.

`python -m` puts the working folder in front of everything installed, and so does an empty entry of
$PYTHONPATH: a `datasets.py` that only lies there would be imported in place of the library.
Imports nothing that is not in memory when Python has started.
"""

from __future__ import annotations

import os
import sys

SAFE = "PYTHONSAFEPATH"
"""With this variable set, Python itself leaves the working folder out (Python 3.11)."""
COMMAND = "tokencredit"


def begin() -> None:
    """What comes before any library is imported where a command of ours is starting.

    The working folder moves behind everything installed, and torch is put off until it is used, as
    is accelerate, which reads it. In
    a process of somebody else's, which imports this package, nothing is changed.
    """
    if not _is_own_command():
        return
    _isolate()
    from tokencredit.machine.later import put_off  # imports what could lie in the working folder

    put_off("torch")
    put_off("accelerate")


def _isolate() -> None:
    try:
        here = os.getcwd()  # noqa: PTH109 (pathlib imports modules that may be shadowed)
    except FileNotFoundError:
        return
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[:1] == [here]:
        del sys.path[0]
    installed = [entry for entry in sys.path if not _same(entry, here)]
    sys.path[:] = [*installed, *(entry for entry in sys.path if _same(entry, here))]


def isolate_children() -> None:
    """Let the Python processes that this one starts leave the working folder out as well."""
    os.environ[SAFE] = "1"


def _is_own_command() -> bool:
    """Whether the console script, or `python -m tokencredit…`, is what Python was started for."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # what stands there until the module has been found
        module = sys.orig_argv[-len(sys.argv)]  # after flags of Python's own
        return module.removeprefix("-m").startswith(COMMAND)
    return os.path.basename(program) == COMMAND  # noqa: PTH119 (as above)


def _same(entry: str, folder: str) -> bool:
    return entry == "" or os.path.abspath(entry) == folder  # noqa: PTH100 (as above)

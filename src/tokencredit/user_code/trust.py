"""Code that a folder names is run only if the command line names it, too.

The configuration in a run's folder lists plug-ins, and whoever sends the folder has written it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import read_json, read_yaml, reading
from tokencredit.store.run_folder import CONFIG
from tokencredit.user_code.kept import unchanged
from tokencredit.user_code.plugins import NAMED

PROGRAMS: Final = ("tokencredit", "cli")
"""What Python was started for where its arguments are a command line of ours."""
CODE: Final = "code"
"""The entry of a run's manifest that lists copies."""


def check_named(plugins: Any, config: Path) -> None:
    """Raise unless this command line names every plug-in that a run's configuration lists.

    A copy, and a file that has been moved, go by their name.
    """
    given = {_short(name) for name in NAMED}
    with reading(config):
        named = [str(name) for name in plugins or ()]
    missing = [name for name in named if _short(name) not in given]
    if not missing:
        return
    run = config.parent
    copies = _copies(run)
    flags = [part for name in missing for part in ("--plugin", _offered(name, copies, run))]
    raise UserError(
        f"{config}: names the plug-in {', '.join(missing)}, whose code is run only if the command "
        f"names it, too; if you trust it, give {_command(flags)}"
    )


def check_folder(run: Path) -> None:
    """Raise unless this command line names the plug-ins of a run's folder; one without a
    configuration names none."""
    path = run / CONFIG
    if path.is_file():
        check_named(read_yaml(path).get("plugins"), path)


def _short(plugin: str) -> str:
    """The name of a file, or of a module."""
    return Path(plugin).name if plugin.endswith(".py") else plugin


def _copies(run: Path) -> dict[str, Mapping[str, Any]]:
    """The entries of a run's manifest on copies of code, by what was named."""
    with suppress(UserError, OSError, KeyError, TypeError):
        return {str(entry["named"]): entry for entry in read_json(run / MANIFEST).get(CODE) or ()}
    return {}


def _offered(name: str, copies: Mapping[str, Mapping[str, Any]], run: Path) -> str:
    """What to name: the file that was named, if it is the one that the run used, or else its copy
    in the run's folder, if nobody has changed that.
    """
    entry = copies.get(name)
    if entry is None or not name.endswith(".py"):
        return name
    own = Path(name).expanduser()
    used = entry["sha256"].get(entry["file"])
    if own.is_file() and file_sha256(own) == used:
        return name
    return str(run / entry["file"]) if unchanged(entry, run) else name


def _command(flags: list[str]) -> str:
    """The command line with further flags, to be pasted; the flags alone in other programs."""
    named = Path(sys.argv[0]).stem in PROGRAMS
    words = ["tokencredit", *sys.argv[1:], *flags] if named else flags
    return f"`{shlex.join(words)}`"

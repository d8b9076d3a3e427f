"""Names of components as people write them: `surprise2` or `my_scheme` for a class `MyScheme`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError
from tokencredit.user_code.plugins import conf_dir, is_ours


def spelled(overrides: Iterable[str], folders: Sequence[Path]) -> list[str]:
    """The overrides, each `GROUP=NAME` with the name of the class that is meant.

    Options of the package and of `folders` keep their names. `UserError` where several classes
    differ only in what is not told apart.
    """
    return [_spelled(override, folders) for override in overrides]


def _spelled(override: str, folders: Sequence[Path]) -> str:
    group, given, names = override.partition("=")
    if not given or group not in COMPONENTS:
        return override
    return f"{group}={','.join(class_name(group, name, folders) for name in names.split(','))}"


def class_name(group: str, name: str, folders: Sequence[Path] = ()) -> str:
    """The plug-in's class that `name` means in another case or with underscores; else `name`."""
    known = [kind.__name__ for kind in COMPONENTS[group] if not is_ours(kind)]
    wanted = name.strip()
    options = [place / group / f"{wanted}.yaml" for place in (conf_dir(), *folders)]
    if wanted in known or any(option.is_file() for option in options):
        return name
    meant = [other for other in known if _plain(other) == _plain(wanted)]
    if len(meant) > 1:
        raise UserError(f"{group} = {wanted!r}: may mean {' or '.join(meant)}; write which")
    return meant[0] if meant else name


def _plain(name: str) -> str:
    """What two spellings of a name have in common."""
    return name.casefold().replace("_", "").replace("-", "")

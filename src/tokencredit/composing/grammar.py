"""Overrides as they are typed: what their grammar refuses or takes for something else.

Hydra reads `#`, `=`, commas, brackets, quotes, and everything that is not ASCII in a value as
grammar. The remedy is to quote the value, once for Hydra and once for the shell; the form that is
shown has been read back before.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokencredit.composing.helptext import groups
from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError
from tokencredit.user_code.plugins import conf_dir, is_ours

NUMBERS: Final = (int, float)  # bool is an int
TEXTS: Final = frozenset({"dataset.path", "sweep.objective"})
"""Keys of texts, or lists of texts, of which their schema cannot say so."""
AT: Final = re.compile(r"(?:at(?: input)?:?|input) '(.*)'", re.DOTALL)
LONGEST: Final = 200
"""Characters of a value that an error shows."""


def check_grammar(arguments: Sequence[str], multirun: bool) -> None:
    """Raise `UserError` for an override that cannot be read, or that only a sweep can have."""
    for argument in arguments:
        key, given, raw = argument.partition("=")
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{argument!a}: is no text in UTF-8; give it in UTF-8, and where the terminal "
                "is set to another encoding, set PYTHONUTF8=1"
            ) from None
        try:
            override = _parsed(argument)
        except (HydraException, ValueError) as error:
            raise UserError(_refusal(key, given, raw, str(error), multirun)) from None
        _check_option(override, raw)
        if override.is_sweep_override() and not multirun:
            raise UserError(
                f"{key} = {raw!r}: names several values; add --multirun (-m) to run each"
                + _remedies(key, raw, multirun=False)
            )


def _check_option(override: Override, raw: str) -> None:
    """Raise where a group gets something that can be no name of an option, `null` above all."""
    group, folder = override.key_or_group, conf_dir()
    known = {path.name for path in folder.iterdir()}  # a key may be too long for a path
    if (override.is_delete() and not raw) or group not in known:
        return
    if any(value is None or isinstance(value, int | float | dict) for value in _values(override)):
        options = [name for name, _ in groups([folder]).get(group, [])]
        if options:
            raise UserError(
                f"{group} = {raw!r}: is no option; leave it out for the default, or choose one of "
                f"{', '.join(options)}"
            )


def check_meaning(arguments: Sequence[str], composed: DictConfig) -> None:
    """Raise `UserError` where a text was typed and read as a number or a truth value.

    Such a text comes out otherwise than it went in: `1e5` as `100000.0`, `true` as `True`.
    """
    for argument in arguments:
        override, (key, _, raw) = _parsed(argument), argument.partition("=")
        if override.is_delete() or override.key_or_group.startswith("hydra"):
            continue
        found = _selected(composed, override.key_or_group)
        changed = [
            value
            for value in _values(override)
            if isinstance(value, NUMBERS) and str(value) in found and str(value) not in raw
        ]
        if changed:
            raise UserError(
                f"{key} = {raw!r}: is read as {changed[0]!r}, which is no text"
                + _remedies(key, raw, override.is_sweep_override())
            )


def quoted(key: str, raw: str, multirun: bool) -> list[str]:
    """Forms of KEY=VALUE for a shell that mean the text `raw`, or a list of texts, themselves."""
    if "\n" in raw:  # it would not be one line, nor safe to copy
        return []
    parts = [raw] if "(" in raw else [part.strip() for part in raw.strip("[]").split(",")]
    texts = ",".join(part if part[:1] in {'"', "'"} else _quote(part) for part in parts)
    bracketed = raw.startswith("[") and raw.endswith("]")
    forms: list[tuple[str, Any]] = []
    if bracketed or (len(parts) > 1 and not multirun):
        forms.append((f"[{texts}]", None))
    elif len(parts) > 1:
        forms.append((texts, None))
    if not bracketed:
        forms.insert(0, (_quote(raw), raw))
    return [shlex.quote(f"{key}={form}") for form, text in forms if _means(key, form, text)]


def _parsed(argument: str) -> Override:
    return OverridesParser.create().parse_override(argument)


def _refusal(key: str, given: str, raw: str, said: str, multirun: bool) -> str:
    if not given:
        return f"{key}: has no value; write {shlex.quote(f'{key}=VALUE')}"
    try:
        _parsed(f"{key}=1")
    except (HydraException, ValueError):
        return f"{key}={_short(raw)}: {key!r} is no key; `tokencredit train --help` lists them"
    place = AT.search(said.splitlines()[0])
    at = f" (at {_short(place[1])!r})" if place and place[1] != "<EOF>" else ""
    return f"{key} = {_short(raw)!r}: cannot be read as it stands{at}" + _remedies(
        key, raw, multirun
    )


def _remedies(key: str, raw: str, multirun: bool) -> str:
    forms = quoted(key, raw, multirun)
    if not forms or len(raw) > LONGEST:
        return "; put the value into a YAML file and name it with --config-dir"
    several = ", as several to try, " if multirun else ", as a list, "
    return f"; as text it is written, in a shell, {f' or{several}'.join(forms)}"


def _quote(text: str) -> str:
    """`text` in double quotes, as Hydra's grammar and OmegaConf's interpolation read them."""
    inner = re.sub(r'(\\*)"', lambda found: found[1] * 2 + '\\"', text).replace("${", "\\${")
    ending = len(inner) - len(inner.rstrip("\\"))
    return '"' + inner + "\\" * ending + '"'


def _means(key: str, form: str, text: str | None) -> bool:
    """Whether KEY=form is read as `text`; as anything but an error where that is None."""
    try:
        value = _parsed(f"{key}={form}").value()
        if text is None:
            return True
        return bool(OmegaConf.create({"value": value}).value == text)
    except (HydraException, OmegaConfBaseException, ValueError):
        return False


def _selected(composed: DictConfig, key: str) -> list[str]:
    """The texts that a key holds: none, one, or those of a list."""
    try:
        found = OmegaConf.select(composed, key)
    except OmegaConfBaseException:  # said when the configuration is loaded
        return []
    listed = list(found) if OmegaConf.is_list(found) else [found]
    return [str(value) for value in listed if key in TEXTS or type(value) is str]


def _values(override: Override) -> Iterator[object]:
    """Every value that an override names."""
    value = override.value()
    listed = getattr(value, "list", value)
    yield from listed if isinstance(listed, list) else [listed]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


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

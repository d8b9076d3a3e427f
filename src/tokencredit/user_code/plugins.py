"""Users' own components: files and modules that register themselves before composing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar

from tokencredit.errors import UserError
from tokencredit.machine.faults import is_users
from tokencredit.user_code.files import Root
from tokencredit.user_code.guard import guarded
from tokencredit.user_code.imports import LOADED, import_file, import_module, names_of, root_of

ENTRY_POINTS = "tokencredit.plugins"
OURS: Final = "tokencredit"
Kind = TypeVar("Kind", bound=type)
REGISTERED: Final[list[tuple[str, type]]] = []
"""The group and class of every registration, in order."""
NAMED: Final[list[str]] = []
"""What this command line names, or that of the process that has started this one."""
_BY_PLUGIN: Final[dict[str, list[tuple[str, type]]]] = {}
"""By plug-in: those that its import has made."""


def import_plugins(plugins: list[str], register: Callable[[str, type], None]) -> None:
    """Import every plug-in named on the command line, then those that installed packages offer.

    `register` is given the group and class of each registration that an earlier import of the same
    file has made.
    """
    NAMED[:] = plugins
    owners: dict[tuple[str, str], tuple[str, type]] = {}
    for plugin in plugins:
        before = len(REGISTERED)
        try:
            name = _import(plugin)
        except UserError as error:
            text = str(error).removeprefix(f"{plugin} ")
            raise UserError(f"--plugin {plugin}: {text}") from error
        new = REGISTERED[before:]
        for group, component in _BY_PLUGIN.setdefault(name, new):
            register(group, component)  # before those of other commands
            key = (group, component.__name__)
            other, theirs = owners.setdefault(key, (plugin, component))
            if theirs is not component:
                raise UserError(
                    f"--plugin {plugin}: registers the {group} {component.__name__!r}, as does "
                    f"--plugin {other}; give one of the two another name"
                )
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        with guarded(f"the plug-in {entry.name} = {entry.value} of an installed package"):
            entry.load()


def take_name(group: str, known: list[Kind], component: Kind) -> None:
    """Note a registration beside the `known` components of its group.

    Raises `UserError` for a name that a built-in has; one that a plug-in of an earlier command in
    this process has is taken away from it.
    """
    REGISTERED.append((group, component))
    name = component.__name__
    if is_ours(component):
        return
    owner = place_of(component)
    option = conf_dir() / group / f"{name}.yaml"
    for other in [other for other in known if other.__name__ == name and other is not component]:
        if is_ours(other):
            taken = f"class {other.__module__}.{name}"
            raise UserError(_taken(owner, group, name, taken))
        known.remove(other)
    if option.is_file():
        raise UserError(_taken(owner, group, name, f"option {option}"))


def _taken(owner: str, group: str, name: str, by: str) -> str:
    return (
        f"{owner}: registers the {group} {name!r}, which is the name of the built-in {by}; give "
        "the class another name"
    )


def place_of(kind: type) -> str:
    """The file of a class, as messages name it; its module where that lies in none."""
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__


def is_ours(component: type) -> bool:
    """Whether a component is the package's own."""
    return component.__module__.startswith(f"{OURS}.")


def shipped(folder: Path, path: Path) -> Path | None:
    """The option that there is already under the name that `path` has, or would have, in a folder
    of the user's; None where there is none, or it is that file itself."""
    known = conf_dir() / path.relative_to(folder)
    return known if known.is_file() and known.resolve() != path.resolve() else None


def check_options(folders: Iterable[Path]) -> None:
    """Raise for a YAML file of the user's that has the name of an option that there is already."""
    for folder in folders:
        for path in sorted(folder.glob("*/**/*.yaml")):
            known = shipped(folder, path)
            if known is not None:
                raise UserError(
                    f"--config-dir {folder}: {path} has the name of {known}, which would be read "
                    "in its place; give it another name"
                )


def plugin_identity(plugins: Iterable[str]) -> list[object]:
    """What the plug-ins are made of, one entry each: a checksum of the file, after the name for a
    module; with other files of the user's that it imports or names, the checksum of each.
    """
    return [_identity(plugin) for plugin in plugins]


def used_code(components: Iterable[object], plugins: Sequence[str]) -> list[object]:
    """The identities of the plug-ins, those of installed packages too, that components are from."""
    classes = list(dict.fromkeys(kind for each in components for kind in _classes(each)))
    if not classes:
        return []
    names = list(dict.fromkeys(kind.__module__ for kind in classes))
    found: list[object] = []
    covered: set[str] = set()
    for plugin in plugins:
        made_of = _modules_of(plugin, names)
        if made_of:
            found.append(_identity(plugin))
            covered |= made_of
    return found + [_module_identity(name) for name in names if name not in covered]


def located(plugin: str) -> tuple[Root, str] | None:
    """The root of a file or module, and the name it is imported as; None if it lies in no file."""
    if plugin.endswith(".py"):
        root = Root.of_file(Path(plugin).expanduser().resolve())
        return root, names_of(root.file)[1]
    module = import_module(plugin)
    return None if getattr(module, "__file__", None) is None else (root_of(plugin, module), plugin)


def _import(plugin: str) -> str:
    """Import a plug-in; the name of its module."""
    if plugin.endswith(".py"):
        return import_file(Path(plugin)).__name__
    return import_module(plugin).__name__


def _identity(plugin: str) -> object:
    if not plugin.endswith(".py"):
        return _module_identity(plugin)
    root = Root.of_file(Path(plugin).expanduser().resolve())
    return root.identity(LOADED.get(names_of(root.file)[1], ()))


def _module_identity(name: str) -> object:
    module = sys.modules[name] if name in sys.modules else import_module(name)
    if getattr(module, "__file__", None) is None:
        return name
    content = root_of(name, module).identity(LOADED.get(name, ()))
    return f"{name} {content}" if isinstance(content, str) else {"module": name, **content}


def _modules_of(plugin: str, names: Iterable[str]) -> set[str]:
    """Which of the named modules a plug-in is made of."""
    found = located(plugin)
    if found is None:
        return {plugin} & set(names)
    root, own = found
    files = {root.file, *root.files().values(), *(path for _, path in LOADED.get(own, ()))}
    return {name for name in names if name == own or _file_of(name) in files}


def _file_of(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return None if file is None else Path(file).resolve()


def _classes(component: object) -> Iterator[type]:
    """The classes of a component, its bases, and its parts that are not this package's own."""
    kind = type(component)
    if kind.__module__ == "builtins":
        parts: Iterable[Any] = ()
        if isinstance(component, list | tuple):
            parts = component
        elif isinstance(component, Mapping):
            parts = component.values()
        for part in parts:
            yield from _classes(part)
        return
    if is_dataclass(component):
        for item in fields(component):
            yield from _classes(getattr(component, item.name))
    for base in kind.__mro__:
        top = base.__module__.partition(".")[0]
        if top == OURS or top in sys.stdlib_module_names:
            continue
        file = _file_of(base.__module__)
        if base is kind or file is None or is_users(file):
            yield base


def conf_dir() -> Path:
    """The folder of the configuration groups: inside an installed wheel, else of the clone."""
    here = Path(__file__).parents[1]
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent.parent / "conf"

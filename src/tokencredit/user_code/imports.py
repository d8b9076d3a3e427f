"""Imports of the user's own code: files by their path, modules of the working folder, helpers."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Final

import cloudpickle

from tokencredit.errors import UserError
from tokencredit.machine.faults import is_users
from tokencredit.user_code.files import Root, check_name, installed
from tokencredit.user_code.guard import guarded

LOADED: Final[dict[str, list[tuple[str, Path]]]] = {}
"""By the name of a module that was asked for: the user's modules that its import loaded."""


class Finder(MetaPathFinder):
    """Lets the user's code, and nothing else, import from its own folder and the working folder.

    It comes behind all that is installed. A library that only looks whether another is there does
    not find a file that happens to lie in the working folder.
    """

    def __init__(self) -> None:
        """A finder without folders."""
        self.roots: list[Root] = []
        self.wanted = ""
        """A module that is imported by name on behalf of the user."""
        self.served: set[str] = set()

    def serve(self, root: Root) -> None:
        """From now on, let `root` and what it imports find its modules."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        importlib.invalidate_caches()
        if root not in self.roots:
            self.roots.append(root)
        self._make_room(root)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The user's module of that name, if the user's code asks for it."""
        if path is not None or "." in fullname:  # the package that it lies in says where
            return None
        for folder in self._folders(fullname):
            spec = PathFinder.find_spec(fullname, [str(folder)])
            if spec is not None:
                self.served.add(fullname)
                return spec
        return None

    def _folders(self, name: str) -> list[Path]:
        """Where the code that imports now may look, the nearest folder first."""
        file = _importer()
        if name != self.wanted and (file is None or not is_users(file)):
            return []
        holding = [root for root in self.roots if file and file.is_relative_to(root.folders[0])]
        holding.sort(key=lambda root: -len(root.folders[0].parts))
        return [folder for root in holding or self.roots for folder in root.folders]

    def _make_room(self, root: Root) -> None:
        """Take out modules of other folders that have the names of modules in the root's own."""
        for name in list(self.served & sys.modules.keys()):
            spec = PathFinder.find_spec(name, [str(folder) for folder in root.folders])
            known = sys.modules[name].__spec__
            if spec is None or known is None or spec.origin == known.origin:
                continue
            for other in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                del sys.modules[other]


FINDER: Final = Finder()


def _importer() -> Path | None:
    """The file of the code that has asked for an import; importlib's own is not meant."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 (the only way to know who asks)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and not name.startswith(("importlib", "pickle")):
            return Path(frame.f_code.co_filename)
        frame = frame.f_back
    return None


def import_file(path: Path) -> ModuleType:
    """The module in a Python file, imported once under a name of its own.

    What it imports may lie beside it or in the working folder, behind everything installed.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{path}: there is no such Python file")
    package, name = names_of(path)
    root = Root.of_file(path)
    FINDER.serve(root)
    if name in sys.modules:
        return sys.modules[name]
    check_name(path)
    root.files()  # says which names are taken, before anything is run
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    holder = ModuleType(package)
    holder.__path__ = [str(path.parent)]  # so that relative imports find what lies beside the file
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules |= {package: holder, name: module}
    try:
        with guarded(f"{path} does not import"):
            spec.loader.exec_module(module)
    except UserError as error:
        del sys.modules[name], sys.modules[package]
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(
                f"{error}; put {error.__cause__.name}.py beside {path.name} or into the working "
                "folder, or install it"
            ) from error
        raise
    _keep(name, set(sys.modules) - before)
    return module


def names_of(path: Path) -> tuple[str, str]:
    """The names of the package and the module that a file is imported as."""
    package = f"tokencredit_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return package, f"{package}.{package}_{path.stem}"


def import_module(name: str) -> ModuleType:
    """The module of that name, installed or of the working folder."""
    here = Root(Path.cwd() / f"{name}.py", ".", (Path.cwd(),))
    FINDER.serve(here)
    top = name.partition(".")[0]
    before = set(sys.modules)
    FINDER.wanted = top
    try:
        with guarded(f"{name} does not import"):
            module = importlib.import_module(name)
    except UserError as error:
        if installed(top) is None and isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(
                f"{error}; it is looked for among the installed modules and in the working folder "
                f"{Path.cwd()}: run the command where it lies, or name its file"
            ) from error
        raise
    finally:
        FINDER.wanted = ""
    if module.__spec__ is not None and module.__spec__.origin and installed(top) is None:
        root_of(name, module).files()  # says which names are taken
    _keep(name, set(sys.modules) - before)
    return module


def root_of(name: str, module: ModuleType) -> Root:
    """The root of a module that was imported by its name and lies in a file."""
    assert module.__file__ is not None
    return Root.of_module(name, Path(module.__file__).resolve())


def _keep(name: str, new: set[str]) -> None:
    """Note which modules of the user's were loaded, and hand them whole to other processes.

    A launcher's worker process cannot import them by name.
    """
    loaded = []
    for other in sorted(new):
        module = sys.modules.get(other)
        file = getattr(module, "__file__", None)
        if module is not None and file and is_users(Path(file)):
            cloudpickle.register_pickle_by_value(module)
            if other != name:
                loaded.append((other, Path(file).resolve()))
    LOADED.setdefault(name, loaded)

"""Which files are the user's own code, and which of them, and of his data, a file makes use of."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError
from tokencredit.machine.faults import is_users
from tokencredit.user_code.literals import imports, named_data

ROOT: Final = "(file)"
"""The label of the file itself; those of the others are names of modules and of data files."""
PACKAGE: Final = "tokencredit"
ASSETS: Final = Path(str(resources.files(PACKAGE) / "assets"))
SYSTEM: Final = ("/proc/", "/sys/", "/dev/")


@dataclass(frozen=True, slots=True)
class Root:
    """A file of the user's that is named by the configuration, and where its imports are found."""

    file: Path
    name: str
    """The name of its module; a file that is named by its path has none and is called `.`."""
    folders: tuple[Path, ...]
    """Searched behind everything installed: its own folder, and the working folder."""

    @classmethod
    def of_file(cls, file: Path) -> Root:
        """A file that is named by its path."""
        return cls(file, ".", (file.parent, Path.cwd()))

    @classmethod
    def of_module(cls, name: str, file: Path) -> Root:
        """A module that is named by its name, and that `file` holds."""
        up = name.count(".") + (file.stem == "__init__")
        return cls(file, name, (file.parents[up], Path.cwd()))

    def files(self) -> dict[str, Path]:
        """Every file of the user's that it imports, directly or not, and data files named in them.

        A module of this package imports nothing of a user's; it has the assets that it names.
        Raises `UserError` where a module that it imports has the name of an installed one.
        """
        if self.name.partition(".")[0] == PACKAGE:
            names = {name: ASSETS / name for name in named_data(self.file)}
            return {name: path for name, path in names.items() if _is_data(path)}
        importlib.invalidate_caches()
        code: dict[str, Path] = {}
        data = self._data(self.file)
        pending = [(self.file, self.name)]
        while pending:
            file, name = pending.pop()
            package = name if file.stem == "__init__" or name == "." else _parent(name)
            holders = [self.name] if file == self.file and name != "." else []  # its packages
            for module in (*imports(file, package), *holders):
                for label, found in self._located(module, file):
                    if label not in code and found != self.file:
                        code[label] = found
                        data |= self._data(found)
                        pending.append((found, label))
        return data | code

    def _located(self, module: str, importer: Path) -> Iterator[tuple[str, Path]]:
        """The files of a module and of the packages that it lies in, as far as the user's."""
        parts = module.lstrip(".").split(".")
        prefix = "." if module.startswith(".") else ""
        near = self.folders[:1] if prefix else self.folders
        spec = PathFinder.find_spec(parts[0], [str(folder) for folder in near])
        if not prefix:
            spec = self._chosen(parts[0], spec, importer)
        for depth, part in enumerate([*parts[1:], ""], start=1):
            if spec is None:
                return
            if spec.has_location and spec.origin is not None and self._owns(Path(spec.origin)):
                yield prefix + ".".join(parts[:depth]), Path(spec.origin)
            places = spec.submodule_search_locations
            name = ".".join([*parts[:depth], part])
            spec = PathFinder.find_spec(name, list(places)) if part and places else None

    def _chosen(self, name: str, near: ModuleSpec | None, importer: Path) -> ModuleSpec | None:
        """What Python takes for a name: `near`, found in the folders, comes behind all others."""
        there = installed(name)
        if there is None:
            return near or _spec(name)
        if near is not None and near.origin is not None and not _same(near.origin, there):
            raise UserError(
                f"{importer}: imports {name!r}, which is both {near.origin} and the installed "
                f"{there}; rename {near.origin}"
            )
        return _spec(name) if name == self.name.partition(".")[0] else None

    def _owns(self, file: Path) -> bool:
        """Whether a file is the user's, or belongs to the installed package that is meant."""
        own = self.name.partition(".")[0]
        return is_users(file) or (own != "" and file.is_relative_to(self.folders[0] / own))

    def _data(self, file: Path) -> dict[str, Path]:
        """The data files that string literals of a file of code name."""
        found = {}
        for name in named_data(file):
            for folder in (file.parent, *self.folders):
                if _is_data(folder / name) and not _same(folder / name, self.file):
                    found[name] = folder / name
                    break
        return found

    def identity(self, loaded: Sequence[tuple[str, Path]] = ()) -> str | dict[str, str]:
        """The sha256 of the file; with others, of each by its label.

        `loaded` are modules of which only their import could tell that they belong to it.
        """
        files = self.files()
        known = {self.file, *files.values()}
        files |= {name: path for name, path in loaded if path not in known}
        sums = {n: file_sha256(p) for n, p in sorted(files.items()) if p.stat().st_size}
        own = file_sha256(self.file)
        return {ROOT: own, **sums} if sums else own


def installed(name: str) -> str | None:
    """Where the installed module or package of that name lies, or what kind it is; None without."""
    spec = _spec(name)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    origin = spec.origin or str(next(iter(spec.submodule_search_locations or ())))
    return None if is_users(Path(origin)) or Path(origin).is_dir() else origin


def check_name(file: Path) -> None:
    """Raise if a file that is to be imported has the name of an installed module."""
    there = installed(file.stem)
    if there is not None:
        raise UserError(
            f"{file}: has the name of the installed module {there}, so that other code may get "
            "the one for the other; rename it"
        )


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # half-imported, or made by hand
        return None


def _parent(name: str) -> str:
    return name.rpartition(".")[0] or ("." if name.startswith(".") else "")


def _is_data(path: Path) -> bool:
    try:
        return path.is_file() and not str(path.resolve()).startswith(SYSTEM)
    except (OSError, ValueError):  # too long for a name, or no name at all
        return False


def _same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()

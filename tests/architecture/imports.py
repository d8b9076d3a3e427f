"""Which module of a package imports which, read from its source: nothing of it is executed.

Three things hide an import from Python's own check for circles, and all three are seen here: a
`TYPE_CHECKING` block, an import inside a function, and a module's name given as a string to
`importlib.import_module` or kept for a module's `__getattr__`.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

Place = Literal["top", "function", "types"]
"""Run when the module is imported; run later, inside a function; read by type checkers alone."""

IMPORTERS = frozenset({"import_module", "__import__", "resolve_name", "run_module"})
"""Functions of the library that import what a string names."""
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Import:
    """One statement or call by which `importer` imports `imported`, both by their full names."""

    importer: str
    imported: str
    line: int
    place: Place


@dataclass(frozen=True, slots=True)
class Module:
    """One file of Python."""

    name: str
    path: Path
    source: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Lines of the file, empty ones included."""
        return len(self.source.splitlines())

    @property
    def is_package(self) -> bool:
        """Whether the file is a folder's `__init__.py`."""
        return self.path.stem == "__init__"


@dataclass(frozen=True)
class Package:
    """All modules below one folder, and what they import of each other."""

    name: str
    modules: Mapping[str, Module]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of one module of the package by another, in the order of the files."""
        names = self.modules.keys()
        return tuple(
            found
            for module in self.modules.values()
            for found in _Reader(self.name, module, names).read()
            if found.importer != found.imported
        )

    @cached_property
    def graph(self) -> Mapping[str, frozenset[str]]:
        """What each module imports, wherever the import stands."""
        edges: dict[str, set[str]] = {name: set() for name in self.modules}
        for found in self.imports:
            edges[found.importer].add(found.imported)
        return {name: frozenset(targets) for name, targets in edges.items()}


def read_package(folder: Path) -> Package:
    """The package whose top folder is `folder`; its name is the folder's."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_text(encoding="utf-8")
        modules[name] = Module(name, path, source, ast.parse(source, str(path)))
    return Package(folder.name, modules)


class _Reader:
    """The imports of one module."""

    def __init__(self, package: str, module: Module, names: Collection[str]) -> None:
        self.package, self.module, self.names = package, module, names
        self.by_name = _imports_by_name(module.tree)

    def read(self) -> Iterator[Import]:
        """Each import where it stands."""
        yield from self._below(self.module.tree, "top")

    def _below(self, node: ast.AST, place: Place) -> Iterator[Import]:
        """Imports below `node`, which stands at `place`."""
        for name in self._named(node):
            yield Import(self.module.name, name, getattr(node, "lineno", 0), place)
        if isinstance(node, ast.If) and _asks_for_types(node.test):
            for statement in node.body:
                yield from self._below(statement, "types")
            for statement in node.orelse:
                yield from self._below(statement, place)
            return
        inner: Place = "function" if isinstance(node, Function) and place == "top" else place
        for child in ast.iter_child_nodes(node):
            yield from self._below(child, inner)

    def _named(self, node: ast.AST) -> Iterator[str]:
        """Modules of the package that this one node imports."""
        if isinstance(node, ast.Import):
            yield from filter(None, (self._nearest(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node)
            found = (self._nearest(f"{base}.{alias.name}") for alias in node.names)
            yield from dict.fromkeys(filter(None, found))
        elif self.by_name and isinstance(node, ast.JoinedStr):
            yield from self._below_prefix(node)
        elif self.by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name.startswith(".") and name.strip("."):
                name = self._relative(len(name) - len(name.lstrip(".")), name.lstrip("."))
            if name in self.names and name != self.package:  # that one is a word as well
                yield name

    def _nearest(self, dotted: str) -> str | None:
        """The module that `dotted` names, itself or as something inside it; None if not ours."""
        while dotted and dotted not in self.names:
            dotted = dotted.rpartition(".")[0]
        return dotted or None

    def _absolute(self, node: ast.ImportFrom) -> str:
        """The module that stands after `from`."""
        return self._relative(node.level, node.module or "") if node.level else node.module or ""

    def _relative(self, dots: int, rest: str) -> str:
        """The absolute name of `rest` behind so many dots."""
        parts = self.module.name.split(".")
        keep = len(parts) - dots + (1 if self.module.is_package else 0)
        return ".".join([*parts[: max(keep, 0)], *filter(None, [rest])])

    def _below_prefix(self, node: ast.JoinedStr) -> Iterator[str]:
        """Every module that an f-string such as f"package.judges.{name}" can name."""
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and str(first.value).startswith(f"{self.package}."):
            yield from sorted(n for n in self.names if n.startswith(str(first.value)))


def _asks_for_types(test: ast.expr) -> bool:
    """Whether it is `TYPE_CHECKING`, by itself or as typing's."""
    return isinstance(test, ast.Name | ast.Attribute) and ast.unparse(test).endswith(
        "TYPE_CHECKING"
    )


def _imports_by_name(tree: ast.Module) -> bool:
    """Whether strings of the module may be imported: it has a `__getattr__`, or names an importer."""
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body
    ) or any(
        (isinstance(node, ast.Name) and node.id in IMPORTERS)
        or (isinstance(node, ast.Attribute) and node.attr in IMPORTERS)
        or (isinstance(node, ast.alias) and node.name in IMPORTERS)
        for node in ast.walk(tree)
    )

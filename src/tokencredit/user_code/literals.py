"""What a file of Python code imports and which files it names, read without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

IMPORTERS: Final = frozenset({"import_module", "__import__", "find_spec", "importorskip"})
WRITERS: Final = frozenset(
    {
        "write_text",
        "write_bytes",
        "touch",
        "unlink",
        "mkdir",
        "FileHandler",
        "RotatingFileHandler",
        "basicConfig",
        "save",
        "savez",
        "savetxt",
        "save_file",
        "savefig",
        "dump",
        "to_csv",
        "to_json",
        "to_jsonl",
        "to_parquet",
        "to_pickle",
        "connect",
    }
)
"""Functions whose arguments name files that are written: results, which are no inputs."""
MODE: Final = re.compile(r"[rbt]*[wax+][wax+rbt]*")
"""How a file is opened that is written."""
LONGEST: Final = 1024
"""Characters of a literal that may name a file."""


def imports(file: Path, package: str) -> list[str]:
    """The modules that a file may import anywhere, inside functions too, by dotted name.

    `package` is the package it belongs to; in one that has no name, `.`, relative imports begin
    with a dot. Of `from a import b` both `a` and `a.b` are given: b may be a module.
    """
    found: dict[str, None] = {}
    for node in ast.walk(_tree(file)):
        for name in _imported(node, package):
            found[name] = None
    return list(found)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = absolute("." * node.level + (node.module or ""), package)
        if base.strip("."):
            yield base
        yield from (_joined(base, alias.name) for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Call) and _name(node.func) in IMPORTERS and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            name = absolute(first.value, package)
            if name.strip("."):
                yield name


def absolute(name: str, package: str) -> str:
    """A module's name without leading dots, except those of a package that has no name."""
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    for _ in range(level - 1):
        package = package.rpartition(".")[0] or ("." if package.startswith(".") else "")
    return _joined(package, name[level:]) if name[level:] else package


def _joined(package: str, name: str) -> str:
    return f".{name}" if package == "." else f"{package}.{name}" if package else name


def named_data(file: Path) -> list[str]:
    """The texts in a file that may name a file it reads: literals, also joined by `/` or a call.

    Descriptions are left out, and what is named where something is written.
    """
    tree = _tree(file)
    found: dict[str, None] = {}
    written = _written(tree)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in prose:
            continue
        texts = [text for text in _texts(node) if text and len(text) <= LONGEST]
        if isinstance(node, ast.Constant | ast.Call | ast.BinOp) and texts:
            for name in ("/".join(texts), texts[0].lstrip("/")):
                if name not in written and texts[-1] not in written and "\0" not in name:
                    found[name] = None
    return list(found)


def _texts(node: ast.AST) -> list[str]:
    """The literals that a path is joined of, in order."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Add):
        return [*_texts(node.left), *_texts(node.right)]
    if isinstance(node, ast.Call):
        return [text for argument in node.args for text in _texts(argument)]
    return []


def _written(tree: ast.AST) -> set[str]:
    """The literals that name files which are written, also by way of a variable."""
    values = {
        target.id: _texts(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not _writes(node):
            continue
        for part in ast.walk(node):
            found.update(_texts(part) if isinstance(part, ast.Constant) else ())
            found.update(values.get(part.id, ()) if isinstance(part, ast.Name) else ())
    return found


def _writes(call: ast.Call) -> bool:
    name = _name(call.func)
    if name != "open":
        return name in WRITERS
    given = [*call.args, *(word.value for word in call.keywords)]
    modes = {part.value for part in given if isinstance(part, ast.Constant)}
    return any(isinstance(mode, str) and MODE.fullmatch(mode) for mode in modes)


def _name(function: ast.expr) -> str:
    """The last name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _tree(file: Path) -> ast.AST:
    """The file's syntax; that of an empty one where it is no Python, which its import will say."""
    if file.suffix != ".py":
        return ast.Module([], [])
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module([], [])

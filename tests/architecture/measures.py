"""What the house is measured by, and how far each measure may go: `python -m architecture.measures`.

Run from tests/, it prints the table that tests/architecture/test_architecture_measures.py holds.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from architecture.imports import Import, Module, Package, read_package

SOURCE = Path(__file__).parents[2] / "src" / "tokencredit"
SMALL_CODE, SMALL_FILE = 60, 80
BRANCHES = 15
FORKS = (
    *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While),
    *(ast.ExceptHandler, ast.match_case),
)
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}

APART: Mapping[str, str] = {
    "tokencredit.models.decoding.packed_head": "leans on private operators of torch, named here",
    "tokencredit.models.decoding.cache": "extends classes of transformers, named here",
    "tokencredit.models.loading.architecture": "settings, read beside those of the other models",
    "tokencredit.evaluation.llm.run": "the one thing that the command does, without its options",
    "tokencredit.rl.before_slices": "reads what nothing writes any more, to be deleted as a whole",
    "tokencredit.models.bag_of_grams": "a model; the stage that imports it trains it",
}
"""Why a file under 80 lines that one other file imports is a file of its own.

Whoever adds such a file writes its reason here, or puts it into the file that imports it.
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number about the package that may not exceed `bound`."""

    what: str
    find: Callable[[Package], Sequence[object] | int]
    """The number, or what is counted."""
    start: int
    """What it was before the house was rebuilt."""
    bound: int
    """What the test holds."""
    target: str
    """What is wanted of it; a bound above it is to be lowered."""

    def number(self, package: Package) -> int:
        """What the test compares with the bound."""
        found = self.find(package)
        return found if isinstance(found, int) else len(found)


def closure(package: Package, name: str) -> frozenset[str]:
    """Modules that are read when `name` is, itself included, wherever the imports stand.

    A folder's `__init__` counts where it is imported by its own name; that the others import
    nothing is a measure too, so nothing hides there.
    """
    seen, waiting = set[str](), [name]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(package.graph[module])
    return frozenset(seen)


def circles(package: Package) -> list[tuple[str, ...]]:
    """Groups of modules of which each reaches every other, the largest first."""
    reached = {name: closure(package, name) for name in package.modules}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in package.modules
    }
    return sorted((g for g in groups if len(g) > 1), key=lambda group: (-len(group), group))


def local_imports(package: Package) -> list[Import]:
    """Imports of own modules that run inside a function."""
    return [found for found in package.imports if found.place == "function"]


def imports_of_folders(package: Package) -> list[Import]:
    """Imports in an `__init__.py`: they run for every module of the folder, and no reader sees it."""
    return [found for found in package.imports if package.modules[found.importer].is_package]


def widest(package: Package, room: str) -> list[str]:
    """The largest closure of a module in the folder `room`."""
    prefix = f"{package.name}.{room}."
    closures = [closure(package, name) for name in package.modules if name.startswith(prefix)]
    return max(map(sorted, closures), key=len)


def read_by_one(package: Package) -> list[Module]:
    """Modules that exactly one other imports, folders' `__init__` aside.

    A component that the configuration alone lists is none of them: one file each is the rule there.
    """
    importers: dict[str, set[str]] = {name: set() for name in package.modules}
    for found in package.imports:
        importers[found.imported].add(found.importer)
    return [
        module
        for name, module in package.modules.items()
        if len(importers[name]) == 1
        and not module.is_package
        and importers[name] != {f"{package.name}.config"}
    ]


def little_code(package: Package) -> list[str]:
    """Modules that one other imports and that have fewer than 60 lines of code."""
    return [m.name for m in read_by_one(package) if code_lines(m.source) < SMALL_CODE]


def small_files(package: Package) -> list[str]:
    """Modules that one other imports and whose file has fewer than 80 lines."""
    return [module.name for module in read_by_one(package) if module.lines < SMALL_FILE]


def unexplained(package: Package) -> list[str]:
    """Small files that give no reason for being apart."""
    return [name for name in small_files(package) if name not in APART]


def code_lines(source: str) -> int:
    """Lines of `source` without empty ones, comments, docstrings, and imports."""
    counted = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            counted.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
            assert isinstance(node, ast.stmt)
            counted.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(counted)


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring, or another string that stands alone."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def branches(function: ast.AST) -> int:
    """Ways through a function, functions inside it included: 1, and 1 for every fork.

    A fork is an `if` (each one of a comprehension too), a conditional expression, a loop, an
    `except`, a `case`, a comprehension's `for`, and every operand of `and` or `or` but the first.
    """
    forks = 1
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp):
            forks += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            forks += 1 + len(node.ifs)
        elif isinstance(node, FORKS):
            forks += 1
    return forks


def branched(package: Package) -> list[str]:
    """Functions with more than 15 branches, as "module.function: branches"."""
    return [
        f"{module.name}.{function.name}: {count}"
        for module, function in _functions(package)
        if (count := branches(function)) > BRANCHES
    ]


def asks_for_class(package: Package, name: str) -> list[str]:
    """Where code asks whether an object is of class `name`: isinstance, issubclass, or a `case`."""
    found = []
    for module in package.modules.values():
        for node in ast.walk(module.tree):
            asked: ast.AST | None = None
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "isinstance",
                "issubclass",
            }:
                asked = node.args[1] if len(node.args) > 1 else None
            elif isinstance(node, ast.MatchClass):
                asked = node.cls
            if asked is not None and name in _names(asked):
                found.append(f"{module.name}:{getattr(node, 'lineno', 0)}")
    return found


def anys(package: Package) -> list[str]:
    """The `Any` in parameters and results: the function's name, once for each."""
    return [
        f"{module.name}.{function.name}"
        for module, function in _functions(package)
        for annotation in _annotations(function)
        for name in _names(annotation)
        if name == "Any"
    ]


def lines(package: Package) -> int:
    """Lines of all files, empty ones included."""
    return sum(module.lines for module in package.modules.values())


def _functions(package: Package) -> Iterator[tuple[Module, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in package.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def _annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    annotations = [argument.annotation for argument in arguments if argument is not None]
    yield from (found for found in [*annotations, function.returns] if found is not None)


def _names(node: ast.AST) -> Iterator[str]:
    """Every name below `node`, that after a dot too."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr


# The bounds of files and lines grow with what is added: `reproduction`, the ledger of claims, revisions, DAE. A
# judge may import so much since `hindsight` reads a reward model and a model of its own.
MEASURES = (
    Measure("circles", circles, 5, 0, "0"),
    Measure("modules in circles", lambda p: [n for c in circles(p) for n in c], 52, 0, "0"),
    Measure("own imports inside functions", local_imports, 107, 15, "15"),
    Measure("own imports in an __init__", imports_of_folders, 1, 14, "1: and the surface"),
    Measure("import closure of a judge", lambda p: widest(p, "judges"), 148, 43, "40"),
    Measure("import closure of a scheme", lambda p: widest(p, "rewards"), 7, 8, "8: and fields"),
    Measure(
        "import closure of an algorithm",
        lambda p: widest(p, "algorithms"),
        14,
        15,
        "15: and fields",
    ),
    Measure("one importer, < 60 lines of code", little_code, 41, 15, "15"),
    Measure("one importer, < 80 lines, no reason", unexplained, 33, 0, "0"),
    Measure("functions over 15 branches", branched, 9, 0, "0"),
    Measure("isinstance(…, RLStage)", lambda p: asks_for_class(p, "RLStage"), 17, 0, "0"),
    Measure("Any in signatures", anys, 275, 275, "no more"),
    Measure("files", lambda p: list(p.modules), 290, 405, "no more"),
    Measure("lines", lines, 35_069, 56_000, "no more"),
)


def table(package: Package) -> str:
    """Every measure: what it is now, was at the start, may be at most, and is wanted to be."""
    rows = [("measure", "now", "start", "held", "wanted")]
    for measure in MEASURES:
        now, start, bound = measure.number(package), measure.start, measure.bound
        rows.append((measure.what, f"{now:,}", f"{start:,}", f"{bound:,}", measure.target))
    return "\n".join(
        f"{what:<38}{now:>8}{start:>8}{held:>8}  {wanted}"
        for what, now, start, held, wanted in rows
    )


if __name__ == "__main__":
    print(table(read_package(SOURCE)))

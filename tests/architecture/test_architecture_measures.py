"""The measures of the house hold, and each of them counts what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from architecture import measures
from architecture.imports import Import, Package, read_package
from architecture.made_up import write

FILES = {
    "__init__.py": "from house import ground\n",
    "ground.py": '"""Alone."""\nimport os\nimport housekeeping\nfrom houses import x\n',
    "rooms/__init__.py": "",
    "rooms/a.py": "from house import ground\nfrom house.rooms.b import B, C\n",
    "rooms/b.py": (
        "import typing\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from house.rooms import a\n"
        "if typing.TYPE_CHECKING:\n    import house.rooms.far\nelse:\n    import house.lazy\n"
    ),
    "rooms/far.py": "def f():\n    from house.rooms import b as other\n    from ..lazy import A\n",
    "rooms/near.py": "from . import far\nfrom .. import ground\nfrom .b import *\n",
    "lazy.py": (
        'NAMES = {"A": "house.rooms.a:A", "other": "os.path"}\n'
        "def __getattr__(name): return load(NAMES[name])\n"
    ),
    "strings.py": (
        "import importlib\nNOT = 'house'\nTOP = importlib.import_module('house.ground')\n"
        "def f(n): return importlib.import_module(f'house.rooms.{n}')\n"
    ),
    "harmless.py": 'COMMAND = ["-m", "house.rooms.a"]\n"""house.ground"""\n',
}


@pytest.fixture
def house(tmp_path: Path) -> Package:
    return write(tmp_path, FILES)


@pytest.fixture(scope="module")
def ours() -> Package:
    return read_package(measures.SOURCE)


def short(found: list[Import]) -> list[tuple[str, str, int]]:
    names = [(f.importer.removeprefix("house."), f.imported.removeprefix("house.")) for f in found]
    return [(*pair, f.line) for pair, f in zip(names, found, strict=True)]


def test_the_house_keeps_its_measures(ours: Package) -> None:
    print("\n" + measures.table(ours))
    over = {
        measure.what: measure.find(ours)
        for measure in measures.MEASURES
        if measure.number(ours) > measure.bound
    }
    assert over == {}


def test_reasons_are_given_for_files_that_need_one(ours: Package) -> None:
    assert measures.APART.keys() - set(measures.small_files(ours)) == set()


def test_every_way_to_import_is_seen(house: Package) -> None:
    tops = [found for found in house.imports if found.place == "top"]
    rooms = [name for name in house.modules if name.startswith("house.rooms.")]
    assert short(tops) == [
        ("house", "ground", 1),
        ("lazy", "rooms.a", 1),
        ("rooms.a", "ground", 1),
        ("rooms.a", "rooms.b", 2),
        ("rooms.b", "lazy", 8),
        ("rooms.near", "rooms.far", 1),
        ("rooms.near", "ground", 2),
        ("rooms.near", "rooms.b", 3),
        ("strings", "ground", 3),
    ]
    types = [found for found in house.imports if found.place == "types"]
    assert short(types) == [("rooms.b", "rooms.a", 4), ("rooms.b", "rooms.far", 6)]
    assert short(measures.local_imports(house)) == [
        ("rooms.far", "rooms.b", 2),
        ("rooms.far", "lazy", 3),
        *(("strings", name.removeprefix("house."), 4) for name in rooms),
    ]
    assert house.graph["house.harmless"] == frozenset()


@pytest.mark.parametrize(
    "source",
    [
        "from importlib import import_module as load\nload('house.a')\n",
        "import importlib as library\nlibrary.import_module('.a', __package__)\n",
        "import pkgutil\nNAMES = ['house.a:x']\nfound = map(pkgutil.resolve_name, NAMES)\n",
        "__import__('house.a')\n",
    ],
)
def test_importers_of_strings_are_known_by_any_name(tmp_path: Path, source: str) -> None:
    package = write(tmp_path, {"__init__.py": "", "a.py": "", "b.py": source})
    assert package.graph["house.b"] == {"house.a"}


def test_an_import_in_a_folders_init_is_seen(house: Package) -> None:
    assert short(measures.imports_of_folders(house)) == [("house", "ground", 1)]


def test_circles_count_types_and_local_imports_and_names_in_strings(house: Package) -> None:
    assert measures.circles(house) == [
        ("house.lazy", "house.rooms.a", "house.rooms.b", "house.rooms.far")
    ]


def test_two_circles_are_two(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    imports = {"a": "b", "b": "a", "c": "a", "d": "e", "e": "d"}
    found = write(tmp_path, {f"{n}.py": f"import house.{imports[n]}\n" for n in names})
    assert measures.circles(found) == [("house.a", "house.b"), ("house.d", "house.e")]


def test_a_closure_holds_all_that_is_read(house: Package) -> None:
    below = {"ground", "lazy", "rooms.a", "rooms.b", "rooms.far"}
    assert measures.closure(house, "house.rooms.a") == {f"house.{name}" for name in below}
    assert measures.closure(house, "house.ground") == {"house.ground"}
    near = {"house.rooms.near", *measures.closure(house, "house.rooms.a")}
    assert measures.widest(house, "rooms") == sorted(near)


def test_lines_of_code_are_told_from_words() -> None:
    source = '"""Page.\n\nTwo."""\nimport a\nfrom b import (\n  c,\n)\n\n# why\ndef f():\n    """D."""\n    return """x\n    y"""\n'
    assert measures.code_lines(source) == 3


def test_small_files_that_one_other_reads_are_found(tmp_path: Path) -> None:
    lines = {"tiny": 10, "small": 79, "large": 80, "shared": 10, "unread": 10}
    files = {f"{name}.py": "x = 1\n" * n for name, n in lines.items()}
    package = write(
        tmp_path,
        {
            **files,
            "room/__init__.py": "",
            "one.py": "from house import room, tiny, small, large, shared\n" + "x = 1\n" * 60,
            "two.py": "def f():\n    from house import shared, one\n" + "x = 1\n" * 60,
        },
    )
    assert measures.small_files(package) == ["house.one", "house.small", "house.tiny"]
    assert measures.unexplained(package) == measures.small_files(package)
    assert measures.little_code(package) == ["house.tiny"]


def test_a_reason_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write(tmp_path, {"a.py": "", "b.py": "import house.a\n"})
    assert measures.unexplained(package) == ["house.a"]
    monkeypatch.setattr(measures, "APART", {"house.a": "a process of its own"})
    assert measures.unexplained(package) == []


@pytest.mark.parametrize(
    ("line", "forks"),
    [
        ("return 1", 0),
        ("if a: return 1\n    elif b: return 2\n    else: return 3", 2),
        ("return 1 if a else 2", 1),
        ("for x in a:\n        while x: x -= 1", 2),
        ("try: a()\n    except KeyError: b()\n    except OSError: c()\n    finally: d()", 2),
        ("return [x for x in a for y in x if y if x]", 4),
        ("return {x: 1 for x in a} and (x for x in b)", 3),
        ("return a and b and c or d", 3),
        ("match a:\n        case 1: pass\n        case _: pass", 2),
        ("def inner(): return a or b\n    return inner", 1),
        ("return lambda x: 1 if x else 2", 1),
    ],
)
def test_branches_are_counted(tmp_path: Path, line: str, forks: int) -> None:
    package = write(tmp_path, {"a.py": f"def f(a, b, c, d):\n    {line}\n"})
    assert measures.branches(package.modules["house.a"].tree) == 1 + forks


def test_a_function_of_sixteen_branches_is_named(tmp_path: Path) -> None:
    many, fewer = (" or ".join(["a"] * n) for n in (16, 15))
    files = {"a.py": f"class C:\n    async def f(a): return {many}\ndef g(a): return {fewer}\n"}
    assert measures.branched(write(tmp_path, files)) == ["house.a.f: 16"]


def test_questions_for_a_class_are_found(tmp_path: Path) -> None:
    source = "isinstance(x, L)\nisinstance(x, (int, m.L))\nissubclass(x, L | int)\nisinstance(L, int)\nf(x, L)\nmatch x:\n    case L(): pass\n    case int(): pass\n"
    found = measures.asks_for_class(write(tmp_path, {"a.py": source}), "L")
    assert sorted(found) == ["house.a:1", "house.a:2", "house.a:3", "house.a:7"]


def test_any_is_counted_in_signatures_alone(tmp_path: Path) -> None:
    source = "def f(a: Any, *b: dict[str, typing.Any], c: int = 0, **d: Any) -> list[Any]:\n    e: Any = a\n    return cast(Any, e)\n"
    assert measures.anys(write(tmp_path, {"a.py": source})) == ["house.a.f"] * 4


def test_files_and_lines_are_counted(house: Package) -> None:
    number = {m.what: m.number(house) for m in measures.MEASURES if m.what in {"files", "lines"}}
    assert number == {"files": 10, "lines": sum(len(s.splitlines()) for s in FILES.values())}


def test_the_table_shows_every_measure(ours: Package) -> None:
    rows = measures.table(ours).splitlines()
    assert len(rows) == len(measures.MEASURES) + 1
    assert all(m.what in row for m, row in zip(measures.MEASURES, rows[1:], strict=True))

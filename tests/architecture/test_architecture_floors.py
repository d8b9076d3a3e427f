"""The floors hold, an import that climbs is reported from each of them, and no room is forgotten."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import grimp
import pytest
from importlinter.api import read_configuration

from architecture.floors import ROOT, Floor, contract, floors, found
from architecture.made_up import write

FLOORS = floors()
CLIMBS = [(low.rooms[0], high.rooms[-1]) for high, low in pairwise(FLOORS)]
LEAPS = [(floor.rooms[-1], FLOORS[0].rooms[0]) for floor in FLOORS[1:]]
ASIDE = [pair for floor in FLOORS if floor.apart for pair in pairwise(floor.rooms)]
DOWN = [(high.rooms[0], low.rooms[-1]) for high, low in pairwise(FLOORS)]
TOGETHER = [pair for floor in FLOORS if not floor.apart for pair in pairwise(floor.rooms)]
SCIENCE = {"rewards", "algorithms", "ops", "rollout"}
BELOW_SCIENCE = {"errors", "streams", "fields"}
"""What a scheme or an algorithm may know besides: messages, random streams, late fields."""


@pytest.fixture(scope="module")
def package() -> grimp.ImportGraph:
    return grimp.build_graph("tokencredit", cache_dir=None)


@pytest.fixture
def graph(package: grimp.ImportGraph) -> grimp.ImportGraph:
    """The imports of the package, to be added to."""
    return deepcopy(package)


def broken(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first may not import the second, and does."""
    found = contract().check(graph, verbose=False).metadata["invalid_dependencies"]
    return {(each["importer"], each["imported"]) for each in found}


def test_the_floors_hold(graph: grimp.ImportGraph) -> None:
    assert len(FLOORS) > 8
    assert broken(graph) == set()
    assert contract().check(graph, verbose=False).kept


def test_imports_for_types_count() -> None:
    options = read_configuration(str(ROOT / "pyproject.toml"))["session_options"]
    assert options["exclude_type_checking_imports"] == "False"


@pytest.mark.parametrize(("low", "high"), dict.fromkeys([*CLIMBS, *LEAPS, *ASIDE]))
def test_an_import_that_climbs_or_goes_aside_is_reported(
    graph: grimp.ImportGraph, low: str, high: str
) -> None:
    graph.add_import(importer=low, imported=high)
    assert (low, high) in broken(graph)


@pytest.mark.parametrize(("high", "low"), [*DOWN, *TOGETHER])
def test_an_import_that_goes_down_is_not(graph: grimp.ImportGraph, high: str, low: str) -> None:
    graph.add_import(importer=high, imported=low)
    assert broken(graph) == set()


@pytest.mark.parametrize("floor", FLOORS[1:], ids=lambda floor: floor.rooms[0])
def test_an_import_from_deep_inside_a_room_is_reported(
    graph: grimp.ImportGraph, floor: Floor
) -> None:
    room = max(floor.rooms, key=lambda name: len(graph.find_descendants(name)))
    deep = max([room, *graph.find_descendants(room)])
    graph.add_import(importer=deep, imported=FLOORS[0].rooms[0])
    assert (room, FLOORS[0].rooms[0]) in broken(graph)


def test_a_room_that_stands_on_no_floor_is_reported(graph: grimp.ImportGraph) -> None:
    graph.add_module("tokencredit.attic")
    check = contract().check(graph, verbose=False)
    assert not check.kept
    assert check.metadata["undeclared_modules"] == {"tokencredit.attic"}


def strangers(graph: grimp.ImportGraph) -> set[str]:
    """Modules of ours that science imports and may not."""
    allowed = {f"tokencredit.{name}" for name in SCIENCE | BELOW_SCIENCE}
    inside = {
        name
        for top in SCIENCE
        for name in [f"tokencredit.{top}", *graph.find_descendants(f"tokencredit.{top}")]
    }
    found = {name for each in inside for name in graph.find_modules_directly_imported_by(each)}
    return found - inside - allowed


def test_science_knows_only_itself_and_the_ground(graph: grimp.ImportGraph) -> None:
    assert strangers(graph) == set()


@pytest.mark.parametrize("room", sorted(SCIENCE))
def test_science_that_knows_more_is_reported(graph: grimp.ImportGraph, room: str) -> None:
    graph.add_import(importer=f"tokencredit.{room}", imported="tokencredit.store.artifacts")
    assert strangers(graph) == {"tokencredit.store.artifacts"}


def test_the_floors_that_imports_allow_are_found(tmp_path: Path) -> None:
    house = {
        "__init__.py": "from house import ground\n",
        "door.py": "from house.hall import table\n",
        "hall/__init__.py": "",
        "hall/table.py": "from house.hall import chair\ndef f():\n    import house.yard\n",
        "hall/chair.py": "",
        "yard.py": "from house import pond\n",
        "pond.py": "import house.cellar\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.yard\n",
        "shed.py": "from house import ground\n",
        "cellar.py": "",
        "ground.py": "",
    }
    assert found(write(tmp_path, house)) == [
        Floor(("house.door",), apart=True),
        Floor(("house.hall",), apart=True),
        Floor(("house.pond", "house.shed", "house.yard"), apart=False),
        Floor(("house.cellar", "house.ground"), apart=True),
    ]
